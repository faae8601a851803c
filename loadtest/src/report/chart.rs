//! Plots as SVG inside a page: lines over two axes, and bars. Colours are classes that the page's
//! style sheet gives a meaning, so that they follow the reader's colour scheme.
//!
//! Plotting libraries write their colours and sizes into the drawing, and know no tooltips.

use maud::{Markup, html};

/// Size of a plot, in its own units.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;

/// What is left around it for ticks and labels.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;

/// Colours that are told apart; more lines are also broken in different ways.
pub const COLOURS: usize = 10;

/// Most ticks of an axis.
const TICKS_MAX: usize = 8;

/// Height of a bar with the space around it.
const BAR: f64 = 26.0;

/// Where the bars begin, behind their labels.
const BAR_LEFT: f64 = 170.0;

/// Where the bars end, before their figures.
const BAR_RIGHT: f64 = 80.0;

/// How values are placed on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    label: String,
    scale: Scale,
    min: f64,
    max: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From zero to beyond the greatest of these values.
    #[must_use]
    pub fn linear(label: &str, values: impl IntoIterator<Item = f64>) -> Axis {
        let greatest = values.into_iter().fold(0.0, f64::max);
        let greatest = if greatest > 0.0 { greatest } else { 1.0 };
        let step = linear_step(greatest);
        let count = (greatest / step).ceil() as usize;
        let ticks = (0..=count).map(|tick| tick as f64 * step);
        Axis {
            label: label.to_owned(),
            scale: Scale::Linear,
            min: 0.0,
            max: count as f64 * step,
            ticks: ticks.map(|tick| (tick, short(tick))).collect(),
        }
    }

    /// From zero to just this value.
    #[must_use]
    pub fn until(label: &str, end: f64) -> Axis {
        let mut axis = Axis::linear(label, [end]);
        axis.ticks.retain(|(tick, _)| *tick <= end);
        axis.max = end.max(f64::MIN_POSITIVE);
        axis
    }

    /// Around these values, those above zero, by their orders of magnitude.
    #[must_use]
    pub fn logarithmic(label: &str, values: impl IntoIterator<Item = f64>) -> Axis {
        let positive = values.into_iter().filter(|value| *value > 0.0);
        let (least, greatest) = positive.fold((f64::INFINITY, 0.0_f64), |(least, greatest), it| {
            (least.min(it), greatest.max(it))
        });
        let (least, greatest) = match least <= greatest {
            true => (least, greatest),
            false => (1.0, 10.0),
        };
        let first = steps(least / 10.0)
            .take_while(|step| *step <= least)
            .last()
            .unwrap_or(least);
        let mut ticks: Vec<f64> = steps(first).take_while(|step| *step < greatest).collect();
        ticks.extend(steps(greatest).next());
        let (min, max) = (
            first,
            ticks.last().copied().unwrap_or(greatest).max(first * 2.0),
        );
        if ticks.len() > TICKS_MAX {
            ticks.retain(|tick| (tick.log10() - tick.log10().round()).abs() < 1e-9);
        }
        Axis {
            label: label.to_owned(),
            scale: Scale::Log,
            min,
            max,
            ticks: ticks.iter().map(|tick| (*tick, short(*tick))).collect(),
        }
    }

    /// By orders of magnitude, with these ticks, of which the first and the last are its ends.
    #[must_use]
    pub fn with_ticks(label: &str, ticks: Vec<(f64, String)>) -> Axis {
        let first = ticks.first().map_or(1.0, |(at, _)| *at);
        let last = ticks.last().map_or(10.0, |(at, _)| *at);
        let alone = first >= last;
        Axis {
            label: label.to_owned(),
            scale: Scale::Log,
            min: if alone { first / 2.0 } else { first },
            max: if alone { first * 2.0 } else { last },
            ticks,
        }
    }

    /// Where a value lies between the axis's ends, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => {
                let value = value.max(self.min);
                (value / self.min).ln() / (self.max / self.min).ln()
            }
        };
        share.clamp(0.0, 1.0)
    }
}

/// From one tick to the next of an axis from zero to this value.
fn linear_step(greatest: f64) -> f64 {
    let mut steps = steps(greatest / (TICKS_MAX as f64 * 4.0));
    let few = steps.find(|step| greatest / step <= TICKS_MAX as f64 - 2.0);
    few.unwrap_or(greatest)
}

/// 1, 2, 5, 10, 20 and so on: those that are not below this one.
fn steps(least: f64) -> impl Iterator<Item = f64> {
    let least = least.max(f64::MIN_POSITIVE * 1e10);
    let magnitude = least.log10().floor() as i32;
    (magnitude..magnitude + 40)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)))
        .filter(move |step| *step >= least * (1.0 - 1e-9))
}

/// A number as short as it can be without misleading.
#[must_use]
pub fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        it if it >= 1e6 => (value / 1e6, "M"),
        it if it >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        it if it == 0.0 || it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        it if it >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

/// A value of a line.
#[derive(Clone, Debug)]
pub struct Point {
    /// Where it lies.
    pub x: f64,
    /// What it is.
    pub y: f64,
    /// Between which values it lay in all rounds, if that is known.
    pub range: Option<(f64, f64)>,
    /// What is told when it is pointed at.
    pub title: String,
}

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is called.
    pub name: String,
    /// Which colour, and how broken.
    pub style: usize,
    /// Its values, from left to right.
    pub points: Vec<Point>,
}

/// Something that happened at some point of the x axis.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Where.
    pub x: f64,
    /// What.
    pub what: String,
}

/// Lines over two axes.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From below to above.
    pub y: Axis,
    /// What is drawn.
    pub lines: Vec<Line>,
    /// What happened.
    pub marks: Vec<Mark>,
}

/// The class that gives a line or a bar its colour.
fn colour(style: usize) -> String {
    let broken = match style / COLOURS {
        0 => "",
        1 => " broken",
        _ => " dotted",
    };
    format!("c{}{broken}", style % COLOURS)
}

/// A coordinate.
fn at(value: f64) -> String {
    format!("{value:.1}")
}

impl Plot {
    /// The plot with its title and what its lines are called.
    #[must_use]
    pub fn markup(&self) -> Markup {
        html! {
            figure {
                figcaption { (self.title) }
                @if self.lines.len() > 1 {
                    ul.legend {
                        @for line in &self.lines {
                            li class=(colour(line.style)) { i {} (line.name) }
                        }
                    }
                }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.title) {
                    (self.grid())
                    @for mark in &self.marks { (self.mark(mark)) }
                    @for line in &self.lines { (self.line(line)) }
                }
            }
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn grid(&self) -> Markup {
        let (below, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        html! {
            g.axis {
                text.label x="4" y="12" { (self.y.label) }
                @for (value, label) in &self.y.ticks {
                    @let y = self.y(*value);
                    path d=(format!("M{LEFT} {y:.1}H{end}")) {}
                    text.end x=(at(LEFT - 6.0)) y=(at(y + 4.0)) { (label) }
                }
                @for (value, label) in &self.x.ticks {
                    @let x = self.x(*value);
                    path d=(format!("M{x:.1} {below}v4")) {}
                    text.middle x=(at(x)) y=(at(below + 18.0)) { (label) }
                }
                text.label.end x=(at(end)) y=(at(HEIGHT - 6.0)) { (self.x.label) }
            }
        }
    }

    fn mark(&self, mark: &Mark) -> Markup {
        let x = self.x(mark.x);
        html! {
            g.mark {
                title { (mark.what) }
                path d=(format!("M{x:.1} {TOP}V{:.1}", HEIGHT - BOTTOM)) {}
                path.flag d=(format!("M{x:.1} {TOP}l10 5l-10 5z")) {}
            }
        }
    }

    fn line(&self, line: &Line) -> Markup {
        let mut path = String::new();
        for (index, point) in line.points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            path.push_str(&format!(
                "{command}{:.1} {:.1}",
                self.x(point.x),
                self.y(point.y)
            ));
        }
        html! {
            g class={ "line " (colour(line.style)) } {
                path d=(path) {}
                @for point in &line.points {
                    @let (x, y) = (at(self.x(point.x)), at(self.y(point.y)));
                    @if let Some((low, high)) = point.range {
                        path.range d=(format!("M{x} {:.1}V{:.1}", self.y(low), self.y(high))) {}
                    }
                    circle cx=(x) cy=(y) r=(if line.points.len() > 30 { "0.8" } else { "2.8" }) {}
                    circle.target cx=(x) cy=(y) r="8" { title { (line.name) ": " (point.title) } }
                }
            }
        }
    }
}

/// A bar, made of parts that add up.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What it is called.
    pub name: String,
    /// The figure behind it.
    pub figure: String,
    /// Its parts: how long, which colour, what is told when it is pointed at.
    pub parts: Vec<(f64, usize, String)>,
}

/// Bars below each other.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What they show, with the unit.
    pub title: String,
    /// What the parts of each are called, with their colours.
    pub legend: Vec<(usize, &'static str)>,
    /// What is drawn.
    pub bars: Vec<Bar>,
}

impl Bars {
    /// The bars with their title.
    #[must_use]
    pub fn markup(&self) -> Markup {
        let height = BAR * self.bars.len() as f64 + 4.0;
        let length = |bar: &Bar| bar.parts.iter().map(|(length, ..)| length).sum::<f64>();
        let longest = self.bars.iter().map(length).fold(0.0, f64::max);
        let unit = match longest > 0.0 {
            true => (WIDTH - BAR_LEFT - BAR_RIGHT) / longest,
            false => 0.0,
        };
        html! {
            figure {
                figcaption { (self.title) }
                @if self.legend.len() > 1 {
                    ul.legend {
                        @for (style, name) in &self.legend {
                            li class=(colour(*style)) { i {} (name) }
                        }
                    }
                }
                svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(self.title) {
                    @for (index, bar) in self.bars.iter().enumerate() {
                        (draw_bar(bar, index as f64 * BAR, unit))
                    }
                }
            }
        }
    }
}

fn draw_bar(bar: &Bar, top: f64, unit: f64) -> Markup {
    let mut x = BAR_LEFT;
    let mut parts = Vec::new();
    for (length, style, title) in &bar.parts {
        let width = (length * unit).max(0.5);
        parts.push((x, width, *style, title));
        x += width;
    }
    let middle = top + BAR / 2.0 + 4.0;
    html! {
        g.bar {
            text.end x=(at(BAR_LEFT - 8.0)) y=(at(middle)) { (bar.name) }
            @for (x, width, style, title) in parts {
                rect class=(colour(style)) x=(at(x)) y=(at(top + 4.0)) width=(at(width))
                    height=(at(BAR - 8.0)) { title { (title) } }
            }
            text x=(at(x + 6.0)) y=(at(middle)) { (bar.figure) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn an_axis_has_a_few_round_ticks_that_hold_every_value() {
        let axis = Axis::linear("", [3.0, 19_800.0]);
        assert_eq!(ticks(&axis), ["0", "5000", "10k", "15k", "20k"]);
        assert_eq!(
            ticks(&Axis::linear("", [0.0])),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
        let axis = Axis::until("", 7.5);
        assert_eq!((ticks(&axis), axis.max), (vec!["0", "2", "4", "6"], 7.5));
        let axis = Axis::logarithmic("", [0.31, 4.2, 0.0]);
        assert_eq!(ticks(&axis), ["0.2", "0.5", "1", "2", "5"]);
        let axis = Axis::logarithmic("", [0.02, 4321.0]);
        assert_eq!(ticks(&axis), ["0.1", "1", "10", "100", "1000"]);
        assert_eq!((axis.min, axis.max), (0.02, 5000.0));
        assert_eq!(ticks(&Axis::logarithmic("", [])), ["1", "2", "5", "10"]);
        for axis in [Axis::logarithmic("", [7.0]), Axis::linear("", [7.0])] {
            assert!((0.0..=1.0).contains(&axis.share(7.0)), "{axis:?}");
        }
    }

    #[test]
    fn values_lie_on_an_axis_in_proportion_or_by_magnitude() {
        let linear = Axis::linear("", [10.0]);
        assert!((linear.share(5.0) - 0.5).abs() < 1e-9);
        let log = Axis::with_ticks("", vec![(1.0, "1".into()), (100.0, "100".into())]);
        assert!((log.share(10.0) - 0.5).abs() < 1e-9);
        assert_eq!((log.share(0.0), log.share(1e9)), (0.0, 1.0));
        let alone = Axis::with_ticks("", vec![(16.0, "16".into())]);
        assert!((alone.share(16.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (0.0004, "0.0004"),
            (1.0, "1"),
            (2.5, "2.5"),
            (12.34, "12.3"),
            (9999.0, "9999"),
            (12_500.0, "12.5k"),
            (200_000.0, "200k"),
            (3_000_000.0, "3M"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn names_are_escaped_and_every_point_tells_its_value() {
        let point = |x, y| Point {
            x,
            y,
            range: Some((y - 1.0, y + 1.0)),
            title: format!("{y} at {x}"),
        };
        let plot = Plot {
            title: "a < b".to_owned(),
            x: Axis::linear("seconds", [4.0]),
            y: Axis::linear("ms", [10.0]),
            lines: vec![
                Line {
                    name: "<script>".to_owned(),
                    style: 0,
                    points: vec![point(0.0, 5.0), point(4.0, 10.0)],
                },
                Line {
                    name: "other".to_owned(),
                    style: COLOURS + 1,
                    points: Vec::new(),
                },
            ],
            marks: vec![Mark {
                x: 2.0,
                what: "node 1 & 2".to_owned(),
            }],
        };
        let text = plot.markup().into_string();
        for part in [
            "a &lt; b",
            "<title>&lt;script&gt;: 5 at 0</title>",
            "node 1 &amp; 2",
            "class=\"line c1 broken\"",
            "M58.0 140.0L532.0 26.0",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("<script>"));
    }

    #[test]
    fn parts_of_a_bar_follow_each_other_and_the_longest_bar_fills_the_width() {
        let bar = |name: &str, parts: &[f64]| Bar {
            name: name.to_owned(),
            figure: "n".to_owned(),
            parts: parts.iter().map(|it| (*it, 0, String::new())).collect(),
        };
        let bars = Bars {
            title: "CPU".to_owned(),
            legend: vec![(0, "servers"), (1, "client")],
            bars: vec![bar("a", &[20.0, 11.0]), bar("b", &[10.0])],
        };
        let text = bars.markup().into_string();
        for part in [
            "x=\"170.0\" y=\"4.0\" width=\"200.0\"",
            "x=\"370.0\" y=\"4.0\" width=\"110.0\"",
            "x=\"170.0\" y=\"30.0\" width=\"100.0\"",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
