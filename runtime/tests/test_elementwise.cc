// The elementwise kernels of every set that this CPU runs, called as nd.cc calls them, against plain loops: sizes 1 to 70, so that
// every tail of every vector width occurs, and what lies behind the results stays.
#include <algorithm>
#include <cmath>
#include <string>

#include "each_set.h"

using namespace mmrt;

namespace {

constexpr int64_t GUARD = 40;  // elements behind each result that must stay

struct Data {
    std::vector<float> x, other, y;
    Data(int64_t size, uint64_t seed) : x(size), other(size), y(size + GUARD, 77.f) {
        check::Random random(seed);
        for (float& v : x) v = 4 * random.signed_uniform();
        for (float& v : other) v = random.uniform() + 0.25f;
    }
    bool kept(int64_t row, int64_t stride, int64_t n) const {  // nothing between the rows nor behind the last
        for (int64_t i = 0; i < int64_t(y.size()); ++i)
            if ((i >= row * stride || i % stride >= n) && y[i] != 77.f) return false;
        return true;
    }
};

double binary(int fn, double a, double b) {
    const double results[BINARIES] = {a + b, a - b, a * b, a / b, std::max(a, b), std::min(a, b), std::pow(a, b)};
    return results[fn];
}

bool close(double got, double want, double scale = 1) { return std::fabs(got - want) <= 1e-6 * scale + 4e-6 * std::fabs(want); }

void test_binary(const Kernels& k, int64_t n) {
    for (int fn = 0; fn < BINARIES; ++fn)
        for (int a_step : {0, 1})
            for (int b_step : {0, 1}) {
                Data d(n, uint64_t(n * 10 + fn));
                const std::vector<float>& a = fn == 6 ? d.other : d.x;
                k.binary(fn, {1, -3.f, 3.f}, a.data(), a_step, d.other.data(), b_step, d.y.data(), n);
                bool right = d.kept(1, n, n);
                for (int64_t i = 0; i < n; ++i) {
                    const double want = std::min(std::max(binary(fn, a[a_step * i], d.other[b_step * i]), -3.0), 3.0);
                    right = right && close(d.y[i], want);
                }
                check::that(right, (std::string(k.name) + " binary " + std::to_string(fn) + " of " + std::to_string(n)).c_str());
            }
    Data d(n, uint64_t(n));  // in place, on either side
    std::vector<float> first = d.x, second = d.other;
    k.binary(1, {0, 0, 0}, first.data(), 1, d.other.data(), 1, first.data(), n);
    k.binary(1, {0, 0, 0}, d.x.data(), 1, second.data(), 1, second.data(), n);
    k.unary({19, 2.f, 1.f}, d.x.data(), d.x.data(), n);
    bool right = true;
    for (int64_t i = 0; i < n; ++i) right = right && first[i] == second[i] && close(d.x[i], 2 * (first[i] + d.other[i]) + 1, 10);
    check::that(right, (std::string(k.name) + " in place, of " + std::to_string(n)).c_str());
}

// The reductions of n elements a stride apart: sum, max, min, sum of squares.
void fold(const float* x, int64_t stride, int64_t n, double* out) {
    out[0] = out[3] = 0;
    out[1] = out[2] = x[0];
    for (int64_t i = 0; i < n; ++i) {
        const double v = x[i * stride];
        out[0] += v;
        out[1] = std::max(out[1], v);
        out[2] = std::min(out[2], v);
        out[3] += v * v;
    }
}

void test_rows(const Kernels& k, int64_t n) {
    const std::string name = std::string(k.name) + " of a row of " + std::to_string(n);
    Data d(n, uint64_t(n + 1000));
    double want[4];
    fold(d.x.data(), 1, n, want);
    for (int kind = 0; kind < REDUCTIONS; ++kind) check::that(close(k.reduce_row(kind, d.x.data(), n), want[kind], double(n)), ("reduction " + name).c_str());
    k.softmax_row(d.x.data(), d.y.data(), n);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(d.x[i] - want[1]);
    bool right = d.kept(1, n, n);
    for (int64_t i = 0; i < n; ++i) right = right && close(d.y[i], std::exp(d.x[i] - want[1]) / sum);
    check::that(right, ("softmax " + name).c_str());
    const double mean = want[0] / double(n), inverse = 1 / std::sqrt(want[3] / double(n) - mean * mean + 1e-3);
    for (bool affine : {false, true}) {
        k.norm_row(d.x.data(), d.y.data(), n, 1e-3f, affine ? d.other.data() : nullptr, affine ? d.x.data() : nullptr);
        right = d.kept(1, n, n);
        for (int64_t i = 0; i < n; ++i) {
            const double plain = (d.x[i] - mean) * inverse;
            right = right && close(d.y[i], affine ? plain * d.other[i] + d.x[i] : plain, 20);
        }
        check::that(right, ("norm " + name).c_str());
    }
}

void test_columns(const Kernels& k, int64_t length, int64_t n) {
    const std::string name = std::string(k.name) + " of " + std::to_string(n) + " columns of " + std::to_string(length);
    const int64_t x_row = n + 3, y_row = n + 5;
    const Data source(x_row * (length - 1) + n, uint64_t(length * 100 + n));  // ends with its last element
    const float* x = source.x.data();
    std::vector<std::vector<double>> want(n, std::vector<double>(4));
    for (int64_t i = 0; i < n; ++i) fold(x + i, x_row, length, want[i].data());
    for (int kind = 0; kind < REDUCTIONS; ++kind) {
        Data d(n, 1);
        k.reduce(kind, x, x_row, length, d.y.data(), n, 0.5f);
        bool right = d.kept(1, n, n);
        for (int64_t i = 0; i < n; ++i)
            right = right && close(d.y[i], kind == 0 ? want[i][0] / 2 : kind == 3 ? std::sqrt(want[i][3]) : want[i][kind], double(length));
        check::that(right, ("reduction " + name).c_str());
    }
    Data soft(y_row * length, 1), norm(y_row * length, 1);
    k.softmax(x, x_row, soft.y.data(), y_row, length, n);
    std::vector<float> gain(length), bias(length);
    for (int64_t r = 0; r < length; ++r) gain[r] = float(r % 5) - 2, bias[r] = float(r % 3);
    k.norm(x, x_row, norm.y.data(), y_row, length, n, 1e-3f, gain.data(), bias.data());
    bool right = soft.kept(length, y_row, n), centred = norm.kept(length, y_row, n);
    for (int64_t i = 0; i < n; ++i) {
        const double mean = want[i][0] / double(length), inverse = 1 / std::sqrt(want[i][3] / double(length) - mean * mean + 1e-3);
        double sum = 0;
        for (int64_t r = 0; r < length; ++r) sum += std::exp(x[r * x_row + i] - want[i][1]);
        for (int64_t r = 0; r < length; ++r) {
            const double v = x[r * x_row + i];
            right = right && close(soft.y[r * y_row + i], std::exp(v - want[i][1]) / sum);
            centred = centred && close(norm.y[r * y_row + i], (v - mean) * inverse * gain[r] + bias[r], 40);
        }
    }
    check::that(right, ("softmax " + name).c_str());
    check::that(centred, ("norm " + name).c_str());
}

void test_set(const Kernels& k) {
    for (int64_t n = 1; n <= 70; ++n) {
        test_binary(k, n);
        test_rows(k, n);
        for (int64_t length : {1, 2, 5, 49}) test_columns(k, length, n);
    }
    for (int64_t n : {127, 128, 129, 255, 1000}) test_rows(k, n);
}

}  // namespace

int main() {
    check::each_set(test_set);
    return check::finish();
}
