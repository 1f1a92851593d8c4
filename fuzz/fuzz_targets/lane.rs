#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| schengate_fuzz::lane(data));
