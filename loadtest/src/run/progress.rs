//! What one sees while a workload runs: a bar on a terminal, a line each second elsewhere.
//! Everything goes to standard error, so that standard output has the result alone.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::workload::{Phases, Shared};

/// How often a terminal is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// How often a line is written elsewhere.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Shows progress until it is dropped or the run is over.
pub async fn show(shared: &Shared, phases: Phases) {
    if std::io::stderr().is_terminal() {
        draw(shared, phases).await;
    } else {
        write_lines(shared, phases).await;
    }
}

async fn draw(shared: &Shared, phases: Phases) {
    let total = phases.warmup + phases.duration;
    let bar = ProgressBar::new(u64::try_from(total.as_millis()).unwrap_or(u64::MAX));
    let style = ProgressStyle::with_template("{bar:30} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let start = Instant::now();
    while start.elapsed() < total {
        tokio::time::sleep(DRAW_INTERVAL).await;
        let elapsed = start.elapsed().min(total);
        bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        bar.set_message(describe(shared, elapsed, phases));
    }
    bar.finish_and_clear();
}

async fn write_lines(shared: &Shared, phases: Phases) {
    let start = Instant::now();
    loop {
        tokio::time::sleep(LINE_INTERVAL).await;
        eprintln!("{}", describe(shared, start.elapsed(), phases));
    }
}

fn describe(shared: &Shared, elapsed: Duration, phases: Phases) -> String {
    let seconds = elapsed.as_secs_f64();
    if elapsed < phases.warmup {
        return format!("{seconds:5.1} s  warming up");
    }
    let measure = shared.measure.borrow();
    let counted = measure.duration().as_secs_f64().max(0.001);
    format!(
        "{seconds:5.1} s  {:.0} cycles/s, acquire p50 {:.2} ms, {} violations",
        measure.cycles() as f64 / counted,
        measure.acquire().p50 / 1000.0,
        shared.oracle.borrow().violations()
    )
}
