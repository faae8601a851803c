//! A result as one HTML page that needs nothing else: no script, no other file, no network. It
//! follows the reader's colour scheme.

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::short;
use super::plots;
use super::results::{Figure, Measured, Results};
use crate::run::report::{Report, milliseconds};

/// The page may not load anything, whatever a name in a result may contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = include_str!("page.css");

/// The whole page.
#[must_use]
pub fn html(results: &Results) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { "loadtest: " (subject(results)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head(results))
                    (verdict(results))
                    @for workload in workloads(results) { (section(results, &workload)) }
                    (environment(results))
                    (reading())
                }
            }
        }
    };
    page.into_string()
}

fn subject(results: &Results) -> String {
    let drivers: Vec<&str> = plots::drivers(results);
    let workloads = workloads(results).join(", ");
    match drivers.as_slice() {
        [one] => format!("{one}, {workloads}"),
        [first, others @ ..] => format!("{first} and {} others, {workloads}", others.len()),
        [] => workloads,
    }
}

/// The workloads, in the order in which they were measured.
fn workloads(results: &Results) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let each = results.measured.iter().map(|it| it.key.workload.clone());
    each.filter(|it| seen.insert(it.clone())).collect()
}

fn head(results: &Results) -> Markup {
    let times: BTreeSet<&str> = results.rounds().map(|it| it.measured_at.as_str()).collect();
    let cycles: u64 = results.rounds().map(|round| round.cycles).sum();
    html! {
        header {
            p.eyebrow { "lockd loadtest" }
            h1 { (subject(results)) }
            p {
                (count(results.measured.len(), "result")) ", "
                (count(results.rounds().count(), "round")) ", "
                (short(cycles as f64)) " cycles"
                @if let Some(first) = times.first().filter(|first| !first.is_empty()) {
                    ", from " time datetime=(first) { (first) }
                }
            }
        }
    }
}

/// Whether the figures may be believed at all.
fn verdict(results: &Results) -> Markup {
    let violations = results.violations();
    let saturated = results
        .rounds()
        .filter(|round| round.generator.saturated)
        .count();
    let busiest = results.rounds().map(|round| round.other_load_cores);
    let busiest = busiest.fold(0.0, f64::max);
    html! {
        @if violations == 0 {
            p.good { "0 violations: every answer was judged, and no promise was broken." }
        } @else {
            div.bad {
                p { (violations) " violations. The service broke its promises:" }
                @for measured in &results.measured {
                    @for story in stories(measured) { pre { (measured.key) ": " (story) } }
                }
            }
        }
        @if saturated > 0 {
            p.warn {
                "In " (count(saturated, "round")) " the load generator itself was saturated: their \
                 figures are its own."
            }
        }
        @if busiest > 0.3 {
            p.warn {
                (format!("{busiest:.2}")) " cores were busy with other work: above 0.3, the \
                 figures say little."
            }
        }
        @for (key, why) in &results.missing { p.warn { (key) ": not measured: " (why) } }
    }
}

fn stories(measured: &Measured) -> Vec<String> {
    let of_round = |round: &Report| {
        let told = round.violation_details.iter().map(ToString::to_string);
        let refused = round.histories.refused.iter();
        let refused = refused.map(|story| format!("not linearizable: {story}"));
        told.chain(refused).collect::<Vec<_>>()
    };
    measured.rounds.iter().flat_map(of_round).collect()
}

fn section(results: &Results, workload: &str) -> Markup {
    let measured = results.measured.iter();
    let measured: Vec<&Measured> = measured.filter(|it| it.key.workload == workload).collect();
    let plots = plots::of_workload(&measured, &plots::drivers(results));
    html! {
        section {
            h2 { (workload) }
            div.wide { (table(&measured)) }
            div.plots { @for plot in plots { (plot) } }
        }
    }
}

fn table(measured: &[&Measured]) -> Markup {
    let has_grants = measured.iter().any(|it| it.grant_is_in.is_some());
    html! {
        table {
            thead {
                tr {
                    th { "" } th { "clients" } th { "cycles/s" } th { "acquire p50" } th { "p99" }
                    th { "p99.9" } th { "CPU µs/cycle" } th { "memory" } th { "fairness" }
                    @if has_grants { th.text { "a grant is in" } }
                    th.text { "notes" }
                }
            }
            tbody {
                @for measured in measured { (row(measured, has_grants)) }
            }
        }
    }
}

fn row(measured: &Measured, has_grants: bool) -> Markup {
    let latency = |of: fn(&Report) -> f64| {
        let figure = measured.figure(|round| Some(of(round)));
        spread(figure, milliseconds)
    };
    let cpu = |of: fn(&Report) -> Option<f64>| {
        measured
            .figure(of)
            .map_or("?".to_owned(), |it| format!("{:.1}", it.median))
    };
    let bytes = measured.figure(|it| it.memory_bytes.servers.map(|bytes| bytes as f64));
    let jain = measured.figure(|it| Some(it.fairness_jain));
    html! {
        tr {
            th {
                (measured.key.driver)
                @if let Some(rate) = measured.key.rate { small { "open, " (short(rate)) "/s" } }
            }
            td { (measured.key.clients) }
            td { (spread(measured.figure(|it| Some(it.cycles_per_s)), short)) }
            td { (latency(|it| it.acquire_us.p50)) }
            td { (latency(|it| it.acquire_us.p99)) }
            td { (latency(|it| it.acquire_us.p999)) }
            td {
                (cpu(|it| it.cpu_us_per_cycle.servers))
                small { "client " (cpu(|it| Some(it.cpu_us_per_cycle.client))) }
            }
            td { (bytes.map_or("?".to_owned(), |it| memory(it.median))) }
            td { (jain.map_or(String::new(), |it| format!("{:.3}", it.median))) }
            @if has_grants { td.text { (measured.grant_is_in.as_deref().unwrap_or_default()) } }
            td.text { @for note in notes(measured) { div { (note) } } }
        }
    }
}

/// A median, and the range if there is one.
fn spread(figure: Option<Figure>, text: impl Fn(f64) -> String) -> Markup {
    html! {
        @if let Some(figure) = figure {
            (text(figure.median))
            @if figure.min < figure.max { small { (text(figure.min)) " – " (text(figure.max)) } }
        }
    }
}

fn memory(bytes: f64) -> String {
    let mib = bytes / f64::from(1 << 20);
    match mib < 10_000.0 {
        true => format!("{mib:.0} MiB"),
        false => format!("{:.0} GiB", mib / 1024.0),
    }
}

/// So many of something.
fn count(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// What a reader of the figures has to know besides.
fn notes(measured: &Measured) -> Vec<String> {
    let mut notes = Vec::new();
    let sum = |of: fn(&Report) -> u64| measured.rounds.iter().map(of).sum::<u64>();
    let open = |of: fn(&Report) -> Option<u64>| sum_of(measured, of);
    for (count, what) in [
        (sum(|it| it.violations), "violations"),
        (sum(|it| it.errors.values().sum()), "errors"),
        (sum(|it| it.unfinished_clients as u64), "clients unfinished"),
        (
            open(|it| it.open_loop.as_ref().map(|it| it.late)),
            "requests late",
        ),
        (
            open(|it| it.open_loop.as_ref().map(|it| it.skipped)),
            "requests skipped",
        ),
    ] {
        if count > 0 {
            notes.push(format!("{count} {what}"));
        }
    }
    if measured.rounds.iter().any(|it| it.generator.saturated) {
        notes.push("generator saturated".to_owned());
    }
    let handovers = measured.figure(|it| Some(it.handovers_per_s));
    if let Some(handovers) = handovers.filter(|it| it.median > 0.0) {
        notes.push(format!("{} handovers/s", short(handovers.median)));
    }
    let faults = measured.rounds.iter().flat_map(|it| &it.faults);
    notes.extend(faults.map(|fault| format!("{:.1} s: {}", fault.at_s, fault.what)));
    notes
}

fn sum_of(measured: &Measured, of: fn(&Report) -> Option<u64>) -> u64 {
    measured.rounds.iter().filter_map(of).sum()
}

/// Where all this was measured.
fn environment(results: &Results) -> Markup {
    let Some(round) = results.rounds().next() else {
        return html! {};
    };
    let machine = &round.machine;
    let mut versions: BTreeSet<String> = BTreeSet::new();
    for round in results.rounds() {
        versions.insert(format!("loadtest and lockd {}", round.version));
        let servers = round.server_versions.iter();
        versions.extend(servers.map(|(name, version)| format!("{name}: {version}")));
    }
    let disk = &round.disk_sync_us;
    let rows = [
        (
            "processors",
            format!("{} of {}", machine.cores, machine.cpu),
        ),
        ("memory", memory(machine.memory_bytes as f64)),
        (
            "system",
            format!("{}, Linux {}", machine.os, machine.kernel),
        ),
        ("file system", disk.filesystem.clone()),
        (
            "disk sync (128 bytes)",
            format!("p50 {:.0} µs, p99 {:.0} µs", disk.p50, disk.p99),
        ),
        (
            "warm-up and measuring",
            format!(
                "{:.1} s and {:.1} s a round",
                round.warmup_s, round.duration_s
            ),
        ),
    ];
    html! {
        section {
            h2 { "Where" }
            dl {
                @for (name, value) in rows { dt { (name) } dd { (value) } }
                dt { "programs" }
                dd { @for version in versions { div { (version) } } }
            }
        }
    }
}

/// What the figures mean.
fn reading() -> Markup {
    html! {
        section.reading {
            h2 { "How to read this" }
            p {
                b { "Closed loop: " }
                "each client asks again when it has given its lock back, so a slow service is \
                 asked less often. Throughput is what so many clients get. "
                b { "Open loop: " }
                "requests are due by a schedule, and their latency counts from when they were due, \
                 also if they had to wait for a client."
            }
            p {
                "Figures are medians over the rounds, with the lowest and the highest. Fairness is \
                 Jain's index of the clients' cycles: 1 if all had as many. No durable lock is \
                 granted faster than the disk syncs."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::measured;
    use super::*;
    use crate::oracle::Violation;
    use crate::run::interval::Interval;
    use crate::run::latency::{Latency, Quantile};
    use crate::run::report::Fault;

    fn page_of(measured: Vec<Measured>) -> String {
        html(&Results {
            measured,
            missing: Vec::new(),
        })
    }

    /// A run of several seconds.
    fn run() -> Measured {
        let mut run = measured("lockd", &[100.0]);
        let round = &mut run.rounds[0];
        let second = |second: u32| Interval {
            at_s: f64::from(second),
            for_s: 1.0,
            cycles: 100,
            errors: 0,
            acquire_us: Latency {
                p50: 500.0,
                p99: 900.0,
                p999: 1000.0,
                ..Latency::default()
            },
        };
        round.intervals = (0..5).map(second).collect();
        round.acquire_spectrum = [(0.0, 100.0), (0.5, 500.0), (1.0, 1000.0)]
            .map(|(share, us)| Quantile { share, us })
            .to_vec();
        round.faults.push(Fault {
            at_s: 2.0,
            what: "node 1, the leader, was killed".to_owned(),
        });
        run
    }

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let mut strange = run();
        strange.key.driver = "<script src='http://x'>".to_owned();
        let page = page_of(vec![strange]);
        assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
        for loads in [
            "<script", "<link", "<img", "src=\"", "href=", "url(", "@import",
        ] {
            assert!(!page.contains(loads), "{loads}\n{page}");
        }
        assert!(page.contains(POLICY));
    }

    #[test]
    fn a_run_has_its_spectrum_its_timeline_and_its_faults() {
        let page = page_of(vec![run()]);
        for part in [
            "Latency spectrum",
            "Throughput over time",
            "Latency over time",
            "CPU time for each cycle",
            "node 1, the leader, was killed",
            "0 violations",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn what_makes_figures_doubtful_is_said_first() {
        let mut violated = run();
        violated.rounds[0].violations = 2;
        violated.rounds[0].violation_details.push(Violation {
            what: "exclusion: broken".into(),
            history: vec!["an event".into()],
        });
        violated.rounds[0].generator.saturated = true;
        violated.rounds[0].other_load_cores = 0.5;
        let page = page_of(vec![violated]);
        let (head, rest) = page.split_once("<section>").unwrap();
        for part in [
            "2 violations",
            "exclusion: broken",
            "an event",
            "In 1 round the load generator itself was saturated",
            "0.50 cores were busy",
        ] {
            assert!(head.contains(part), "{part}\n{head}");
        }
        assert!(rest.contains("generator saturated"));
    }

    #[test]
    fn several_numbers_of_clients_become_the_x_axis() {
        let with = |clients: u64, throughputs: &[f64]| {
            let mut it = measured("lockd", throughputs);
            it.key.clients = clients;
            it
        };
        let page = page_of(vec![with(1, &[50.0]), with(16, &[90.0, 80.0, 100.0])]);
        assert!(!page.contains("Throughput, cycles/s"));
        for part in [
            "Throughput against clients",
            "p99 of the latency against clients",
            "90 cycles/s (80 – 100)",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
