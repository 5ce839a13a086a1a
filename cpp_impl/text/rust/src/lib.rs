// SPDX-License-Identifier: Apache-2.0
//! Hugging Face tokenizers and minijinja behind the C ABI of `polyad_text.h`.
//! No call panics, prints or keeps a pointer it was lent.

mod boundary;
mod chat;
mod python_json;
mod tokenizer;
mod unicode;
