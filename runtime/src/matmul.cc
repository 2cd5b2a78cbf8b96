// MATMUL: activations times activations, batched. An item is one matrix of the batch.
#include <memory>

#include "kernels.h"

namespace mmrt {
namespace {

int64_t batch_offset(const View& view, int64_t index) {
    int64_t offset = 0;
    for (int axis = int(view.dims.size()) - 3; axis >= 0; --axis) {
        offset += index % view.dims[axis] * view.strides[axis];
        index /= view.dims[axis];
    }
    return offset;
}

const float* base(const View& view, const float* arena) { return view.constant ? view.constant : arena + view.offset; }

}  // namespace

Step make_matmul(const MatmulDesc& desc, const Kernels& kernels) {
    auto d = std::make_shared<MatmulDesc>(desc);
    const size_t rank = desc.c.dims.size();
    int64_t batch = 1;
    for (size_t axis = 0; axis + 2 < rank; ++axis) batch *= desc.c.dims[axis];
    Step step;
    step.op = "MATMUL";
    step.kernel = std::string("matmul ") + kernels.name;
    step.items = int(batch);
    step.macs = step.needed_macs = double(batch) * desc.c.dims[rank - 2] * desc.c.dims[rank - 1] * desc.a.dims[rank - 1];
    step.run = [d, rank, run = kernels.matmul](int item, float* arena) {
        MatmulTask task;
        task.a = base(d->a, arena) + batch_offset(d->a, item);
        task.b = base(d->b, arena) + batch_offset(d->b, item);
        task.c = arena + d->c.offset + batch_offset(d->c, item);
        task.M = d->c.dims[rank - 2];
        task.N = d->c.dims[rank - 1];
        task.K = d->a.dims[rank - 1];
        task.a_row = d->a.strides[rank - 2];
        task.a_column = d->a.strides[rank - 1];
        task.b_row = d->b.strides[rank - 2];
        task.c_row = d->c.strides[rank - 2];
        task.scale = d->scale;
        run(task);
    };
    return step;
}

}  // namespace mmrt
