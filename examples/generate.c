/* Continues a text with the C interface: generate MODEL_DIR TEXT [NUM_TOKENS] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsv4/dsv4.h"

#define MAX_PROMPT 4096

/* Prints the message of a failed call and returns the exit status. */
static int report(const char* what, const char* message) {
  fprintf(stderr, "generate: %s: %s\n", what, message);
  return 1;
}

static int run(dsv4_engine* engine, dsv4_session* session, const char* text, int num_tokens) {
  int32_t ids[MAX_PROMPT];
  size_t num_ids = 0;
  ids[0] = dsv4_bos_token(engine);
  if (dsv4_tokenize(engine, text, strlen(text), 0, ids + 1, MAX_PROMPT - 1, &num_ids) != DSV4_OK) {
    return report("tokenize", dsv4_error_message(engine));
  }
  if (dsv4_session_feed(session, ids, num_ids + 1) != DSV4_OK) return report("feed", dsv4_error_message(engine));

  dsv4_sampling sampling = dsv4_sampling_default();
  sampling.temperature = 0.0f;
  for (int i = 0; i < num_tokens; ++i) {
    int32_t token_id = 0;
    if (dsv4_session_sample(session, &sampling, &token_id, NULL) != DSV4_OK) return report("sample", dsv4_error_message(engine));
    if (token_id == dsv4_eos_token(engine)) break;
    char bytes[256];
    size_t length = 0;
    if (dsv4_detokenize(engine, &token_id, 1, bytes, sizeof bytes, &length) != DSV4_OK) {
      return report("detokenize", dsv4_error_message(engine));
    }
    fwrite(bytes, 1, length, stdout);
    if (dsv4_session_feed(session, &token_id, 1) != DSV4_OK) return report("feed", dsv4_error_message(engine));
  }
  putchar('\n');
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: %s MODEL_DIR TEXT [NUM_TOKENS]\n", argv[0]);
    return 2;
  }
  char message[512];
  dsv4_engine* engine = NULL;
  if (dsv4_open(argv[1], NULL, &engine, message, sizeof message) != DSV4_OK) return report("open", message);
  dsv4_session* session = NULL;
  int status = 1;
  if (dsv4_session_open(engine, &session) == DSV4_OK) {
    status = run(engine, session, argv[2], argc > 3 ? atoi(argv[3]) : 64);
  } else {
    report("session", dsv4_error_message(engine));
  }
  dsv4_session_close(session);
  dsv4_close(engine);
  return status;
}
