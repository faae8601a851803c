//! What happened second by second, as CSV: one line for each second of each round.

use serde::Serialize;

use super::results::Results;

/// A line. The names of its fields are the columns'.
#[derive(Serialize)]
struct Line<'a> {
    driver: &'a str,
    workload: &'a str,
    clients: u64,
    /// Empty in a closed loop.
    rate_per_s: Option<f64>,
    /// Counted from 1.
    round: usize,
    at_s: f64,
    for_s: f64,
    cycles: u64,
    errors: u64,
    acquire_p50_us: f64,
    acquire_p90_us: f64,
    acquire_p99_us: f64,
    acquire_p999_us: f64,
    acquire_max_us: f64,
}

/// The whole file.
#[must_use]
pub fn text(results: &Results) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for measured in &results.measured {
        let key = &measured.key;
        for (index, round) in measured.rounds.iter().enumerate() {
            for second in &round.intervals {
                let line = Line {
                    driver: &key.driver,
                    workload: &key.workload,
                    clients: key.clients,
                    rate_per_s: key.rate,
                    round: index + 1,
                    at_s: second.at_s,
                    for_s: second.for_s,
                    cycles: second.cycles,
                    errors: second.errors,
                    acquire_p50_us: second.acquire_us.p50,
                    acquire_p90_us: second.acquire_us.p90,
                    acquire_p99_us: second.acquire_us.p99,
                    acquire_p999_us: second.acquire_us.p999,
                    acquire_max_us: second.acquire_us.max,
                };
                // Writing a flat line to memory does not fail.
                let written = writer.serialize(line);
                written.unwrap_or_else(|error| panic!("a line of CSV: {error}"));
            }
        }
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::measured;
    use super::*;
    use crate::run::interval::Interval;
    use crate::run::latency::Latency;

    #[test]
    fn each_second_is_a_line_and_names_are_quoted_where_they_must_be() {
        let mut measured = measured("a, \"b\"", &[1.0, 2.0]);
        measured.rounds[1].intervals.push(Interval {
            at_s: 1.0,
            for_s: 1.001,
            cycles: 20,
            errors: 3,
            acquire_us: Latency {
                p50: 0.5,
                ..Latency::default()
            },
        });
        let results = Results {
            measured: vec![measured],
            missing: Vec::new(),
        };
        let text = text(&results);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "driver,workload,clients,rate_per_s,round,at_s,for_s,cycles,errors,\
                 acquire_p50_us,acquire_p90_us,acquire_p99_us,acquire_p999_us,acquire_max_us",
                "\"a, \"\"b\"\"\",uncontended,64,,2,1.0,1.001,20,3,0.5,0.0,0.0,0.0,0.0"
            ]
        );
    }
}
