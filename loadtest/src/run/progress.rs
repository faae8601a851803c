//! What one sees while a workload runs: a view that is drawn again and again on a terminal, a line
//! each second elsewhere. Everything goes to standard error, so that standard output has the result
//! alone.

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lockd_client::{ClientConfig, NodeReader};

use super::measure::Measure;
use super::report::milliseconds;
use super::round::Setup;
use super::workload::{Phases, Shared};

/// How often a terminal is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// How often a line is written elsewhere.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// How often a cell is asked who leads it, and how long it may take to answer.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);

/// Shows progress until it is dropped or the run is over. `cell` is the `client.toml` of the cell
/// that is driven, if it is one.
pub async fn show(shared: &Shared, setup: &Setup, cell: Option<&Path>) {
    if std::io::stderr().is_terminal() {
        let leader = Cell::new(None);
        // Boxed: it would be most of the future of a run.
        tokio::select! {
            () = draw(shared, setup, &leader, cell.is_some()) => {}
            () = Box::pin(watch_leader(cell, &leader)) => {}
        }
    } else {
        write_lines(shared, setup.phases).await;
    }
}

async fn draw(shared: &Shared, setup: &Setup, leader: &Cell<Option<u64>>, has_leader: bool) {
    let phases = setup.phases;
    let total = phases.warmup + phases.duration;
    let bar = ProgressBar::new(u64::try_from(total.as_millis()).unwrap_or(u64::MAX));
    let style = ProgressStyle::with_template("{bar:40.cyan/dim} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let clients = shared.plan().clients;
    let title = format!(
        "{}, {}, {clients} clients",
        setup.driver,
        setup.workload.name()
    );
    let start = Instant::now();
    while start.elapsed() < total {
        tokio::time::sleep(DRAW_INTERVAL).await;
        let elapsed = start.elapsed().min(total);
        bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let leads = has_leader.then(|| match leader.get() {
            Some(node) => format!("node {node} leads"),
            None => "nobody is known to lead".to_owned(),
        });
        let measure = shared.measure.borrow();
        let violations = shared.oracle.borrow().violations();
        let view = view(&measure, violations, leads.as_deref());
        bar.set_message(format!(
            "{:.1} of {:.1} s\n{title}{}\n{view}",
            elapsed.as_secs_f64(),
            total.as_secs_f64(),
            if elapsed < phases.warmup {
                ", warming up"
            } else {
                ""
            },
        ));
    }
    bar.finish_and_clear();
}

/// The figures of the last second and of the whole.
fn view(measure: &Measure, violations: u64, leads: Option<&str>) -> String {
    let now = match measure.intervals().last() {
        Some(last) => format!(
            "{:.0} cycles/s, acquire {}",
            last.cycles as f64 / last.for_s,
            last.acquire_us
        ),
        None => "-".to_owned(),
    };
    let failed: u64 = measure.troubles().values().sum();
    let mut lines = vec![
        format!("  last second  {now}"),
        format!("  so far       {}", overall(measure)),
        format!("  checks       {violations} violations, {failed} errors"),
    ];
    lines.extend(leads.map(|leads| format!("  cell         {leads}")));
    let faults = measure.faults().iter();
    lines.extend(faults.map(|it| format!("  fault        {:.1} s: {}", it.at_s, it.what)));
    lines.join("\n")
}

fn overall(measure: &Measure) -> String {
    let counted = measure.duration().as_secs_f64().max(0.001);
    let acquire = measure.acquire();
    format!(
        "{:.0} cycles/s, acquire p50 {}, p99 {}",
        measure.cycles() as f64 / counted,
        milliseconds(acquire.p50),
        milliseconds(acquire.p99)
    )
}

/// Keeps asking who leads the cell. Never ends.
async fn watch_leader(cell: Option<&Path>, leader: &Cell<Option<u64>>) {
    let Some(cell) = cell else {
        return std::future::pending().await;
    };
    loop {
        if let Some(reader) = connect(cell).await {
            while let Ok(status) = reader.status().await {
                leader.set(status.leader.map(|node| node.0));
                tokio::time::sleep(LEADER_INTERVAL).await;
            }
        }
        leader.set(None);
        tokio::time::sleep(DRAW_INTERVAL).await;
    }
}

/// A connection to whichever node answers.
async fn connect(cell: &Path) -> Option<NodeReader> {
    let config = ClientConfig::load(cell).ok()?;
    NodeReader::connect_any(&config, LEADER_INTERVAL).await.ok()
}

async fn write_lines(shared: &Shared, phases: Phases) {
    let start = Instant::now();
    let mut told = 0;
    loop {
        tokio::time::sleep(LINE_INTERVAL).await;
        let measure = shared.measure.borrow();
        let seconds = start.elapsed().as_secs_f64();
        for fault in &measure.faults()[told..] {
            eprintln!(
                "{seconds:5.1} s  {} {:.1} s after counting began",
                fault.what, fault.at_s
            );
        }
        told = measure.faults().len();
        if start.elapsed() < phases.warmup {
            eprintln!("{seconds:5.1} s  warming up");
            continue;
        }
        let violations = shared.oracle.borrow().violations();
        eprintln!(
            "{seconds:5.1} s  {}, {violations} violations",
            overall(&measure)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::ClientIndex;

    #[test]
    fn the_view_has_the_last_second_the_whole_the_leader_and_the_faults() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut measure = Measure::new(1, 1);
        measure.begin(at(0), Duration::from_secs(3));
        measure.granted(at(0), at(2));
        measure.released(ClientIndex(0), at(2), at(3));
        measure.mark(at(500), "node 1, the leader, was killed".to_owned());
        measure.granted(at(1000), at(1010));
        measure.released(ClientIndex(0), at(1010), at(1011));
        let view = view(&measure, 7, Some("node 2 leads"));
        let lines: Vec<&str> = view.lines().collect();
        assert!(
            lines[0].starts_with("  last second  1 cycles/s, acquire p50 2.00 ms"),
            "{view}"
        );
        assert!(lines[1].contains("p99 10.0 ms"), "{view}");
        assert_eq!(lines[2], "  checks       7 violations, 0 errors");
        assert_eq!(lines[3], "  cell         node 2 leads");
        assert_eq!(
            lines[4],
            "  fault        0.5 s: node 1, the leader, was killed"
        );
        assert_eq!(lines.len(), 5);
    }
}
