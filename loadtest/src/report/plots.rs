//! Which plots show a workload.

use maud::Markup;

use super::chart::{Axis, Bar, Bars, Line, Mark, Plot, Point, short};
use super::results::{Figure, Measured, Results};
use crate::run::interval::Interval;
use crate::run::report::{Report, milliseconds};

/// Fewest seconds of a run whose course is shown.
const SECONDS_MIN: usize = 3;

/// The lock services, in the order in which they were measured. Their places are their colours.
#[must_use]
pub fn drivers(results: &Results) -> Vec<&str> {
    let mut drivers: Vec<&str> = Vec::new();
    for measured in &results.measured {
        if !drivers.contains(&measured.key.driver.as_str()) {
            drivers.push(&measured.key.driver);
        }
    }
    drivers
}

/// The plots of what was measured of one workload.
#[must_use]
pub fn of_workload(measured: &[&Measured], drivers: &[&str]) -> Vec<Markup> {
    let style = |measured: &Measured| {
        let mut places = drivers.iter();
        let place = places.position(|driver| *driver == measured.key.driver);
        place.unwrap_or_default()
    };
    let most = measured.iter().map(|it| it.key.clients).max().unwrap_or(0);
    let fullest: Vec<(usize, &Measured)> = measured
        .iter()
        .filter(|it| it.key.clients == most)
        .map(|it| (style(it), *it))
        .collect();
    let mut clients: Vec<u64> = measured.iter().map(|it| it.key.clients).collect();
    clients.sort_unstable();
    clients.dedup();
    let mut plots = Vec::new();
    if clients.len() > 1 {
        let styled: Vec<(usize, &Measured)> = measured.iter().map(|it| (style(it), *it)).collect();
        plots.extend(against_clients(&styled, &clients));
    }
    plots.push(spectrum(&fullest, most));
    plots.extend(timelines(&fullest));
    if clients.len() == 1 && fullest.len() > 1 {
        plots.push(throughput(&fullest));
    }
    plots.push(cpu(&fullest, most));
    plots
}

/// What a line or a bar is called.
fn name(measured: &Measured) -> String {
    match measured.key.rate {
        Some(rate) => format!("{}, {}/s", measured.key.driver, short(rate)),
        None => measured.key.driver.clone(),
    }
}

fn throughput(measured: &[(usize, &Measured)]) -> Markup {
    let bar = |(style, measured): &(usize, &Measured)| {
        let cycles = measured.figure(|it| Some(it.cycles_per_s));
        let cycles = cycles.unwrap_or(Figure {
            median: 0.0,
            min: 0.0,
            max: 0.0,
        });
        let title = range(cycles, "cycles/s", short);
        Bar {
            name: name(measured),
            figure: short(cycles.median),
            parts: vec![(cycles.median, *style, title)],
        }
    };
    let bars = Bars {
        title: "Throughput, cycles/s".to_owned(),
        legend: Vec::new(),
        bars: measured.iter().map(bar).collect(),
    };
    bars.markup()
}

/// A median, and between which values it lay.
fn range(figure: Figure, unit: &str, text: impl Fn(f64) -> String) -> String {
    let median = text(figure.median);
    let (min, max) = (text(figure.min), text(figure.max));
    match figure.min < figure.max {
        true => format!("{median} {unit} ({min} – {max})"),
        false => format!("{median} {unit}"),
    }
}

fn against_clients(measured: &[(usize, &Measured)], clients: &[u64]) -> Vec<Markup> {
    let x = || {
        let ticks = clients.iter().map(|it| (*it as f64, it.to_string()));
        Axis::with_ticks("clients", ticks.collect())
    };
    let throughput = lines(measured, "cycles/s", |it| Some(it.cycles_per_s));
    let p50 = lines(measured, "ms", |it| Some(it.acquire_us.p50 / 1e3));
    let p99 = lines(measured, "ms", |it| Some(it.acquire_us.p99 / 1e3));
    let plot = |title: &str, y: Axis, lines| {
        let plot = Plot {
            title: title.to_owned(),
            x: x(),
            y,
            lines,
            marks: Vec::new(),
        };
        plot.markup()
    };
    let logarithmic = |label, lines: &[Line]| Axis::logarithmic(label, values(lines));
    vec![
        plot(
            "Throughput against clients",
            logarithmic("cycles/s", &throughput),
            throughput,
        ),
        plot(
            "Median latency against clients",
            logarithmic("ms from asking to the grant", &p50),
            p50,
        ),
        plot(
            "p99 of the latency against clients",
            logarithmic("ms from asking to the grant", &p99),
            p99,
        ),
    ]
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    let points = lines.iter().flat_map(|line| &line.points);
    points.flat_map(|point| {
        let (low, high) = point.range.unwrap_or((point.y, point.y));
        [low, high]
    })
}

/// A line for each lock service, over the numbers of clients.
fn lines(
    measured: &[(usize, &Measured)],
    unit: &str,
    of: impl Fn(&Report) -> Option<f64>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (style, measured) in measured {
        let Some(figure) = measured.figure(&of) else {
            continue;
        };
        let clients = measured.key.clients;
        let point = Point {
            x: clients as f64,
            y: figure.median,
            range: (figure.min < figure.max).then_some((figure.min, figure.max)),
            title: format!("{} at {clients} clients", range(figure, unit, short)),
        };
        let name = name(measured);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                name,
                style: *style,
                points: vec![point],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    lines
}

/// What share of the requests took how long, by the share that took longer.
fn spectrum(measured: &[(usize, &Measured)], clients: u64) -> Markup {
    let line = |(style, measured): &(usize, &Measured)| {
        let round = measured.median_round()?;
        Some(Line {
            name: name(measured),
            style: *style,
            points: spectrum_points(round),
        })
    };
    let lines: Vec<Line> = measured.iter().filter_map(line).collect();
    let furthest = lines.iter().flat_map(|line| &line.points);
    let furthest = furthest.map(|point| point.x).fold(10.0, f64::max);
    let plot = Plot {
        title: format!("Latency spectrum, {clients} clients"),
        x: Axis::with_ticks("of the requests took no longer", percentiles(furthest)),
        y: Axis::logarithmic("ms from asking to the grant", values(&lines)),
        lines,
        marks: Vec::new(),
    };
    plot.markup()
}

fn spectrum_points(round: &Report) -> Vec<Point> {
    let requests = round.cycles.max(1) as f64;
    let points = round.acquire_spectrum.iter();
    let points = points.map(|point| Point {
        // The last point is the slowest request: one of all.
        x: (1.0 / (1.0 - point.share)).min(requests).max(1.0),
        y: point.us / 1e3,
        range: None,
        title: format!(
            "{} % took no longer than {}",
            percent(point.share),
            milliseconds(point.us)
        ),
    });
    points.collect()
}

/// A share in percent, as precisely as it is far from all.
fn percent(share: f64) -> String {
    let digits = match 1.0 - share {
        left if left >= 0.01 || left <= 0.0 => 0,
        // What is a hair less than a power of ten is that power.
        left => (-left.log10() - 1e-6).floor() as usize - 1,
    };
    format!("{:.digits$}", share * 100.0)
}

/// Ticks at 0 %, 90 %, 99 % and so on, beyond the furthest value.
fn percentiles(furthest: f64) -> Vec<(f64, String)> {
    let mut ticks = vec![(1.0, "0 %".to_owned())];
    let mut nines = 1;
    while ticks.last().is_some_and(|(at, _)| *at < furthest) && nines < 12 {
        let at = 10_f64.powi(nines);
        ticks.push((at, format!("{} %", percent(1.0 - 1.0 / at))));
        nines += 1;
    }
    ticks
}

fn cpu(measured: &[(usize, &Measured)], clients: u64) -> Markup {
    let bar = |(_, measured): &(usize, &Measured)| {
        let servers = measured.figure(|it| it.cpu_us_per_cycle.servers);
        let client = measured.figure(|it| Some(it.cpu_us_per_cycle.client));
        let mut parts = Vec::new();
        for (style, (figure, who)) in [(servers, "servers"), (client, "clients")]
            .iter()
            .enumerate()
        {
            if let Some(figure) = figure {
                let title = format!("{who}: {}", range(*figure, "µs", short));
                parts.push((figure.median, style, title));
            }
        }
        let sum: f64 = parts.iter().map(|(length, ..)| length).sum();
        let known = if servers.is_some() { "" } else { " + ?" };
        Bar {
            name: name(measured),
            figure: format!("{}{known}", short(sum)),
            parts,
        }
    };
    let bars = Bars {
        title: format!("CPU time for each cycle, µs, {clients} clients"),
        legend: vec![(0, "servers"), (1, "clients")],
        bars: measured.iter().map(bar).collect(),
    };
    bars.markup()
}

/// The course of the median rounds, if they lasted long enough to have one.
fn timelines(measured: &[(usize, &Measured)]) -> Vec<Markup> {
    let rounds: Vec<(usize, String, &Report)> = measured
        .iter()
        .filter_map(|(style, it)| Some((*style, name(it), it.median_round()?)))
        .filter(|(_, _, round)| round.intervals.len() >= SECONDS_MIN)
        .collect();
    let Some(longest) = rounds.iter().map(|(.., it)| it.duration_s).reduce(f64::max) else {
        return Vec::new();
    };
    let throughput: Vec<Line> = rounds
        .iter()
        .map(|(style, name, round)| {
            let value = |it: &Interval| it.cycles as f64 / it.for_s;
            course(*style, name.clone(), round, value, "cycles/s")
        })
        .collect();
    let latency = match rounds.as_slice() {
        [(_, _, round)] => percentile_courses(round),
        several => several
            .iter()
            .map(|(style, name, round)| {
                let value = |it: &Interval| it.acquire_us.p99 / 1e3;
                course(*style, name.clone(), round, value, "ms")
            })
            .collect(),
    };
    let alone = rounds.len() == 1;
    let of = if alone { "" } else { " (p99)" };
    let mut marks = Vec::new();
    for (_, _, round) in &rounds {
        marks.extend(round.faults.iter().map(|fault| Mark {
            x: fault.at_s,
            what: format!("{:.1} s: {}", fault.at_s, fault.what),
        }));
    }
    let plot = |title: String, y: Axis, lines| {
        let plot = Plot {
            title,
            x: Axis::until("seconds", longest),
            y,
            lines,
            marks: marks.clone(),
        };
        plot.markup()
    };
    let cycles = Axis::linear("cycles/s", values(&throughput));
    let took = Axis::logarithmic("ms from asking to the grant", values(&latency));
    vec![
        plot("Throughput over time".to_owned(), cycles, throughput),
        plot(format!("Latency over time{of}"), took, latency),
    ]
}

/// A value of a second.
type Value = fn(&Interval) -> f64;

fn percentile_courses(round: &Report) -> Vec<Line> {
    let of: [(&str, Value); 3] = [
        ("p50", |it| it.acquire_us.p50 / 1e3),
        ("p99", |it| it.acquire_us.p99 / 1e3),
        ("p99.9", |it| it.acquire_us.p999 / 1e3),
    ];
    let lines = of.iter().enumerate();
    lines
        .map(|(style, (name, value))| course(style, (*name).to_owned(), round, value, "ms"))
        .collect()
}

/// A value second by second, each in the middle of its second.
fn course(
    style: usize,
    name: String,
    round: &Report,
    value: impl Fn(&Interval) -> f64,
    unit: &str,
) -> Line {
    let points = round.intervals.iter().map(|second| Point {
        x: second.at_s + second.for_s / 2.0,
        y: value(second),
        range: None,
        title: format!(
            "{} {unit} from {:.0} s on",
            short(value(second)),
            second.at_s
        ),
    });
    Line {
        name,
        style,
        points: points.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_told_as_precisely_as_they_are_far_out() {
        assert_eq!(percent(0.5), "50");
        assert_eq!(percent(0.99), "99");
        assert_eq!(percent(0.999), "99.9");
        assert_eq!(percent(0.9999), "99.99");
        assert_eq!(percent(0.99999), "99.999");
        assert_eq!(percent(1.0), "100");
        let labels: Vec<String> = percentiles(2000.0).into_iter().map(|(_, it)| it).collect();
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }
}
