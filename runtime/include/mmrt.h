/* mmrt: runs sparse vision models (.mmrt files) on CPUs. A C API: link with -lmmrt.
 *
 * Functions that return int return 0 on success and a negative mmrt_error otherwise; mmrt_last_error() then describes
 * the error. A model may be used by one thread at a time; different models are independent. All data is float32. */
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
    MMRT_BAD_ARGUMENT = -2, /* an index out of range, a null pointer, a number of threads outside 1 to 256 */
    MMRT_NO_MEMORY = -3,
    MMRT_FAILED = -4,    /* anything else, such as a file that cannot be opened */
    MMRT_NOT_FINITE = -5 /* uint8 files: an input, or a value to convert to an integer, is NaN or infinite */
};

/* Reads and checks the file and packs its weights. `threads`: number of threads for one inference, including the caller's. */
MMRT_API int mmrt_load(const char* path, int threads, mmrt_model** model);
/* As mmrt_load, from memory, which may be freed afterwards. */
MMRT_API int mmrt_load_memory(const void* data, size_t bytes, int threads, mmrt_model** model);
MMRT_API void mmrt_free(mmrt_model* model); /* null is allowed */

MMRT_API int mmrt_input_count(const mmrt_model* model);
MMRT_API int mmrt_output_count(const mmrt_model* model);
/* Null for an index out of range. The strings are valid as long as the model. */
MMRT_API const char* mmrt_input_name(const mmrt_model* model, int index);
MMRT_API const char* mmrt_output_name(const mmrt_model* model, int index);
/* Writes up to 8 dims and returns their number. */
MMRT_API int mmrt_input_shape(const mmrt_model* model, int index, int64_t dims[8]);
MMRT_API int mmrt_output_shape(const mmrt_model* model, int index, int64_t dims[8]);

/* Runs one inference. One pointer for each input and each output, to row-major float32 arrays of their shapes. NaN and infinity: a
 * float32 file propagates them as the dense network does; a uint8 file refuses them with MMRT_NOT_FINITE, because integers cannot
 * represent them. The outputs are then undefined; the model can still be used. */
MMRT_API int mmrt_run(mmrt_model* model, const float* const* inputs, float* const* outputs);

/* As mmrt_run, `count` times: each array holds `count` arrays of that input's or output's shape, one after the other, such as a batch
 * (count, C, H, W) for an input of shape (1, C, H, W). The outputs are bit for bit those of one call each. */
MMRT_API int mmrt_run_batch(mmrt_model* model, int64_t count, const float* const* inputs, float* const* outputs);

/* Runs one inference and times each step. Writes JSON, [{"name", "op", "kernel", "seconds", "macs", "needed_macs", "done_macs",
 * "sparse_below", "cost"}, ...], of at most `bytes` bytes including the final zero; returns the number of bytes that are needed, which may be larger. */
MMRT_API int64_t mmrt_profile(mmrt_model* model, const float* const* inputs, float* const* outputs, char* json, size_t bytes);

MMRT_API const char* mmrt_version(void);
MMRT_API const char* mmrt_kernels(const mmrt_model* model); /* the instruction set in use; null: all compiled ones, separated by commas */
MMRT_API const char* mmrt_last_error(void);                 /* the last error of this thread */

#ifdef __cplusplus
}
#endif
#endif
