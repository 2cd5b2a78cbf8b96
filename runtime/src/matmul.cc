// MATMUL and QMATMUL: activations times activations, batched. An item is one matrix of the batch.
#include <memory>
#include <vector>

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

// The matrices of one item; their scale is 1.
MatmulTask task_of(const MatmulDesc& d, int item, float* arena) {
    const size_t rank = d.c.dims.size();
    MatmulTask task;
    task.a = base(d.a, arena) + batch_offset(d.a, item);
    task.b = base(d.b, arena) + batch_offset(d.b, item);
    task.c = arena + d.c.offset + batch_offset(d.c, item);
    task.M = d.c.dims[rank - 2];
    task.N = d.c.dims[rank - 1];
    task.K = d.a.dims[rank - 1];
    task.a_row = d.a.strides[rank - 2];
    task.a_column = d.a.strides[rank - 1];
    task.b_row = d.b.strides[rank - 2];
    task.c_row = d.c.strides[rank - 2];
    task.scale = 1;
    return task;
}

Step step_of(const MatmulDesc& d, const Kernels& kernels) {
    const size_t rank = d.c.dims.size();
    int64_t batch = 1;
    for (size_t axis = 0; axis + 2 < rank; ++axis) batch *= d.c.dims[axis];
    Step step;
    step.kernel = std::string("matmul ") + kernels.name;
    step.items = int(batch);
    step.macs = step.needed_macs = step.done_macs = double(batch) * d.c.dims[rank - 2] * d.c.dims[rank - 1] * d.a.dims[rank - 1];
    return step;
}

}  // namespace

Step make_matmul(const MatmulDesc& desc, const Kernels& kernels, int) {
    auto d = std::make_shared<MatmulDesc>(desc);
    Step step = step_of(desc, kernels);
    step.run = [d, run = kernels.matmul](int item, float* arena) {
        MatmulTask task = task_of(*d, item, arena);
        task.scale = d->scale;
        run(task);
    };
    return step;
}

Step make_qmatmul(const QMatmulDesc& desc, const Kernels& kernels, int) {
    auto d = std::make_shared<QMatmulDesc>(desc);
    Step step = step_of(desc.floats, kernels);
    step.lost_nan = std::make_shared<std::atomic<bool>>(false);
    step.run = [d, lost_nan = step.lost_nan, run = kernels.qmatmul](int item, float* arena) {
        thread_local std::vector<float> scratch;
        QMatmulTask task{task_of(d->floats, item, arena), d->a, d->b, d->c, d->multiplier, nullptr};
        const size_t size = size_t(qmatmul_scratch(task.floats.M, task.floats.N, task.floats.K));
        if (scratch.size() < size) scratch.resize(size);
        task.scratch = scratch.data();
        if (!run(task)) *lost_nan = true;
    };
    return step;
}

}  // namespace mmrt
