//! See `gateway::fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    gateway::fuzz::target("mysql_statement").expect("a target")(input);
});
