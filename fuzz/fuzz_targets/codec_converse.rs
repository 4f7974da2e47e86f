#![no_main]

#[expect(dead_code, reason = "the other targets have their own parts")]
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::codecs::codec(paceline_core::Endpoint::Converse, data);
});
