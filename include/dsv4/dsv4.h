/* dsv4: DeepSeek-V4 inference behind a C interface.
 *
 * Ownership. dsv4_open() gives an engine, dsv4_session_open() a session of it; each is freed by its own close function, sessions before
 * their engine. The library keeps no pointer that it is given: every array and string is read or written during the call alone. Arrays that
 * the library fills are the caller's, with their capacity beside them. Error messages belong to the engine and last until its next call.
 * Threads. An engine and its sessions are used by one thread at a time; different engines are independent.
 * Errors. Every function that can fail returns a dsv4_status; DSV4_OK is 0. A failed call has changed nothing.
 */
#ifndef DSV4_DSV4_H
#define DSV4_DSV4_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define DSV4_API
#else
#define DSV4_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum dsv4_status {
  DSV4_OK = 0,
  DSV4_ERROR_INVALID_ARGUMENT = 1, /* a null pointer, a number out of range, a token id outside the vocabulary */
  DSV4_ERROR_MODEL = 2,            /* the model directory cannot be used */
  DSV4_ERROR_CAPACITY = 3,         /* the context, the sessions, the memory or the caller's array is full */
  DSV4_ERROR_STATE = 4,            /* the call does not fit what came before, e.g. sampling a session that was fed nothing */
  DSV4_ERROR_INTERNAL = 5,
  DSV4_ERROR_DEVICE = 6 /* no CUDA in this build, no GPU that its kernels are for, or a CUDA call failed */
} dsv4_status;

typedef struct dsv4_engine dsv4_engine;   /* a loaded model and its caches */
typedef struct dsv4_session dsv4_session; /* one sequence of tokens */

/* Zero means the default. Set struct_size to sizeof(dsv4_options). */
typedef struct dsv4_options {
  size_t struct_size;
  int32_t max_sessions; /* open at once; default 4 */
  int32_t max_context;  /* tokens of one session, prompt and completion; default: what the model allows */
  int32_t step_tokens;  /* prompts are computed in chunks of this many tokens; default 512 on the CPU, up to 4096 on a GPU */
  int32_t num_threads;  /* of the CPU; default: every core */
  const char* device;   /* "cpu" (default), "cuda" or "cuda:N" */
} dsv4_options;

/* How to draw a token. dsv4_sampling_default() gives the neutral values. */
typedef struct dsv4_sampling {
  size_t struct_size;       /* sizeof(dsv4_sampling) */
  float temperature;        /* 0: greedy; default 1 */
  int32_t top_k;            /* 0: off */
  float top_p;              /* (0, 1]; 1: off */
  float min_p;              /* [0, 1); 0: off */
  float repetition_penalty; /* > 0; 1: off */
  float presence_penalty;   /* 0: off */
  float frequency_penalty;  /* 0: off */
  uint64_t seed;            /* the n-th draw of a session depends on seed, n, logits and history alone */
} dsv4_sampling;

/* "0.1.0" */
DSV4_API const char* dsv4_version(void);

/* Opens a model directory in the official format. `options` may be NULL. On failure *engine is NULL and, if message is not NULL, one line
 * that says why is written there, cut to message_size bytes with its terminating zero. */
DSV4_API dsv4_status dsv4_open(const char* model_dir, const dsv4_options* options, dsv4_engine** engine, char* message,
                               size_t message_size);
/* Frees the engine; NULL is allowed. Its sessions must have been closed. */
DSV4_API void dsv4_close(dsv4_engine* engine);
/* What went wrong in the last failed call on this engine or one of its sessions; "" if nothing did. */
DSV4_API const char* dsv4_error_message(const dsv4_engine* engine);

DSV4_API int32_t dsv4_vocab_size(const dsv4_engine* engine);
DSV4_API int32_t dsv4_max_context(const dsv4_engine* engine);
DSV4_API int32_t dsv4_bos_token(const dsv4_engine* engine);
DSV4_API int32_t dsv4_eos_token(const dsv4_engine* engine);

/* Token ids of `length` bytes of UTF-8 text. Special tokens written in the text become ordinary text unless match_special is not 0.
 * *num_ids is the number of ids; if it exceeds capacity nothing is written and the status is DSV4_ERROR_CAPACITY. */
DSV4_API dsv4_status dsv4_tokenize(dsv4_engine* engine, const char* text, size_t length, int match_special, int32_t* ids, size_t capacity,
                                   size_t* num_ids);
/* Bytes of token ids, without a terminating zero; a character may be cut where the ids begin or end. Capacity as for dsv4_tokenize. */
DSV4_API dsv4_status dsv4_detokenize(dsv4_engine* engine, const int32_t* ids, size_t num_ids, char* text, size_t capacity, size_t* length);

DSV4_API dsv4_status dsv4_session_open(dsv4_engine* engine, dsv4_session** session);
/* Frees the session; NULL is allowed. */
DSV4_API void dsv4_session_close(dsv4_session* session);
/* Appends token ids to the session. They are computed by the next call that needs them, together with what other sessions wait for. */
DSV4_API dsv4_status dsv4_session_feed(dsv4_session* session, const int32_t* ids, size_t num_ids);
/* Tokens fed so far. */
DSV4_API size_t dsv4_session_length(const dsv4_session* session);
/* Draws the token that follows the session's tokens and its natural log-probability (may be NULL). `sampling` may be NULL: defaults. The
 * token is not fed. */
DSV4_API dsv4_status dsv4_session_sample(dsv4_session* session, const dsv4_sampling* sampling, int32_t* token_id, float* logprob);
/* Logits [vocab_size] after the session's last token. */
DSV4_API dsv4_status dsv4_session_logits(dsv4_session* session, float* logits, size_t capacity);

DSV4_API dsv4_sampling dsv4_sampling_default(void);

#ifdef __cplusplus
}
#endif

#endif
