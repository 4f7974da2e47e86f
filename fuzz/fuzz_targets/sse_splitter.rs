#![no_main]

#[expect(dead_code, reason = "the other targets have their own parts")]
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|stream: &[u8]| properties::sse_splitter(stream));
