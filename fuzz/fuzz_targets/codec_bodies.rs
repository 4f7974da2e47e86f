#![no_main]

#[expect(dead_code, reason = "the other targets have their own parts")]
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::codec_bodies(bytes));
