/* mmrt: runs sparse vision models (.mmrt files) on CPUs. A C API: link with -lmmrt.
 *
 * Functions that return int give 0 on success and a negative mmrt_error otherwise; mmrt_last_error() then says what was
 * wrong, in words. A model may be used by one thread at a time; different models are independent. All data is float32. */
#ifndef MMRT_H
#define MMRT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MMRT_API __attribute__((visibility("default")))

typedef struct mmrt_model mmrt_model;

enum mmrt_error {
    MMRT_OK = 0,
    MMRT_BAD_FILE = -1,     /* not a .mmrt file, or a damaged one */
    MMRT_BAD_ARGUMENT = -2, /* an index out of range, a null pointer, a number of threads below 1 */
    MMRT_NO_MEMORY = -3,
    MMRT_FAILED = -4,    /* anything else, such as a file that cannot be opened */
    MMRT_NOT_FINITE = -5 /* of a uint8 file: an input, or a value that would become an integer, is NaN or infinite */
};

/* Reads and checks the file and packs its weights. `threads`: of one inference, the caller's included. */
MMRT_API int mmrt_load(const char* path, int threads, mmrt_model** model);
/* The same from memory, which may be freed afterwards. */
MMRT_API int mmrt_load_memory(const void* data, size_t bytes, int threads, mmrt_model** model);
MMRT_API void mmrt_free(mmrt_model* model); /* null is fine */

MMRT_API int mmrt_input_count(const mmrt_model* model);
MMRT_API int mmrt_output_count(const mmrt_model* model);
/* Null for an index out of range. The strings live as long as the model. */
MMRT_API const char* mmrt_input_name(const mmrt_model* model, int index);
MMRT_API const char* mmrt_output_name(const mmrt_model* model, int index);
/* Writes up to 8 dims and returns how many there are. */
MMRT_API int mmrt_input_shape(const mmrt_model* model, int index, int64_t dims[8]);
MMRT_API int mmrt_output_shape(const mmrt_model* model, int index, int64_t dims[8]);

/* One inference. One pointer for each input and each output, to row-major float32 arrays of their shapes. NaN and infinity: a float32
 * file gives what the dense network gives, NaN where NaN reaches; a uint8 file refuses them with MMRT_NOT_FINITE, as integers cannot say
 * them. Outputs then hold nothing of use; the model can go on. */
MMRT_API int mmrt_run(mmrt_model* model, const float* const* inputs, float* const* outputs);

/* One inference on the inputs given, each step timed. Writes JSON, [{"name", "op", "kernel", "seconds", "macs",
 * "needed_macs"}, ...], of at most `bytes` bytes with its end; returns the bytes it takes, which may be more. */
MMRT_API int64_t mmrt_profile(mmrt_model* model, const float* const* inputs, float* const* outputs, char* json, size_t bytes);

MMRT_API const char* mmrt_version(void);
MMRT_API const char* mmrt_kernels(const mmrt_model* model); /* the instruction set in use; null: all that are compiled in, with commas between */
MMRT_API const char* mmrt_last_error(void);                 /* of this thread */

#ifdef __cplusplus
}
#endif
#endif
