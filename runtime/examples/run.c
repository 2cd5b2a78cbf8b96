/* Runs a model with any number of inputs and outputs: ./run MODEL [INPUT ...]
 * INPUT is a file of raw float32 numbers for each input, in their order; inputs without one are zeros. */
#include <mmrt.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t elements(const int64_t *dims, int rank) {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    return n;
}

int main(int argc, char **argv) {
    mmrt_model *model;
    int64_t dims[8];
    if (argc < 2) return fprintf(stderr, "usage: %s MODEL [INPUT ...]\n", argv[0]), 2;
    if (mmrt_load(argv[1], 1, &model)) return fprintf(stderr, "%s\n", mmrt_last_error()), 1;
    const int n_inputs = mmrt_input_count(model), n_outputs = mmrt_output_count(model);
    float **inputs = calloc(n_inputs, sizeof *inputs), **outputs = calloc(n_outputs, sizeof *outputs);
    for (int i = 0; i < n_inputs; i++) {
        const int64_t n = elements(dims, mmrt_input_shape(model, i, dims));
        inputs[i] = calloc(n, sizeof(float));
        FILE *file = i + 2 < argc ? fopen(argv[i + 2], "rb") : NULL;
        if (i + 2 < argc && (!file || fread(inputs[i], sizeof(float), n, file) != (size_t)n))
            return fprintf(stderr, "%s: not %lld numbers for %s\n", argv[i + 2], (long long)n, mmrt_input_name(model, i)), 1;
        if (file) fclose(file);
    }
    for (int i = 0; i < n_outputs; i++) outputs[i] = calloc(elements(dims, mmrt_output_shape(model, i, dims)), sizeof(float));
    if (mmrt_run(model, (const float *const *)inputs, outputs)) return fprintf(stderr, "%s\n", mmrt_last_error()), 1;
    for (int i = 0; i < n_outputs; i++) {
        const int64_t n = elements(dims, mmrt_output_shape(model, i, dims));
        printf("%s:", mmrt_output_name(model, i));
        for (int64_t k = 0; k < n && k < 10; k++) printf(" %g", outputs[i][k]);
        printf(n > 10 ? " ... (%lld numbers)\n" : "\n", (long long)n);
        free(outputs[i]);
    }
    for (int i = 0; i < n_inputs; i++) free(inputs[i]);
    free(inputs), free(outputs), mmrt_free(model);
}
