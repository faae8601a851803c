//! The story of a demo as it happens: who did what when, under which token. For people, with
//! colour on a terminal; or kept for JSON.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::terminal::print_line;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Since the beginning, milliseconds.
    pub at_ms: f64,
    /// To whom, or by whom.
    pub who: Who,
    /// What.
    pub what: String,
    /// Under which token, if under any. A string: not every reader of JSON has 64-bit integers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How it is to be seen.
    pub tone: Tone,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// The three nodes.
    Cell,
    /// The gateway in front of the data.
    Gateway,
    /// The client that is paused.
    A,
    /// The client that takes over.
    B,
    /// Whoever looks at the data in the end.
    Data,
}

/// How an event is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// In the ordinary course of things.
    Plain,
    /// An operation was accepted.
    Accepted,
    /// An operation was refused.
    Refused,
    /// A fault was put in.
    Fault,
}

/// How the story is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Each event in a line, as it happens.
    Lines {
        /// With colour.
        colour: bool,
    },
    /// Nothing now: the caller prints all events in the end.
    Quiet,
}

impl Style {
    /// Lines, coloured if standard output is a terminal on which colour is wanted.
    #[must_use]
    pub fn for_people() -> Style {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Style::Lines {
            colour: wanted && std::io::stdout().is_terminal(),
        }
    }
}

/// The events so far.
pub struct Timeline {
    start: Instant,
    style: Style,
    events: Vec<Event>,
}

impl Timeline {
    /// Begins a story.
    #[must_use]
    pub fn begin(style: Style) -> Timeline {
        Timeline {
            start: Instant::now(),
            style,
            events: Vec::new(),
        }
    }

    /// How long the story has been going on.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Tells the next event.
    pub fn tell(&mut self, who: Who, tone: Tone, token: Option<u64>, what: impl Into<String>) {
        let event = Event {
            at_ms: (self.start.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            who,
            what: what.into(),
            token: token.map(|token| token.to_string()),
            tone,
        };
        if let Style::Lines { colour } = self.style {
            print_line(&event.line(colour));
        }
        self.events.push(event);
    }

    /// A line that is not an event, for people only.
    pub fn say(&self, text: &str) {
        if let Style::Lines { colour } = self.style {
            let bold = if colour { ("\x1b[1m", RESET) } else { ("", "") };
            print_line(&format!("{}{text}{}", bold.0, bold.1));
        }
    }

    /// Everything that was told.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

const RESET: &str = "\x1b[0m";

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Cell => "cell",
            Who::Gateway => "gateway",
            Who::A => "A",
            Who::B => "B",
            Who::Data => "data",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Who::Cell => "\x1b[2m",
            Who::Gateway => "\x1b[35m",
            Who::A => "\x1b[33m",
            Who::B => "\x1b[36m",
            Who::Data => "\x1b[1m",
        }
    }
}

impl Tone {
    fn mark(self) -> &'static str {
        match self {
            Tone::Plain => " ",
            Tone::Accepted => "✓",
            Tone::Refused => "✗",
            Tone::Fault => "!",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Tone::Plain => "",
            Tone::Accepted => "\x1b[32m",
            Tone::Refused => "\x1b[31m",
            Tone::Fault => "\x1b[33m",
        }
    }
}

impl Event {
    fn line(&self, colour: bool) -> String {
        let time = format!("{:>8.3} s", self.at_ms / 1000.0);
        let token = self
            .token
            .as_ref()
            .map_or(String::new(), |token| format!("token {token}"));
        let (who, mark, what) = (self.who.name(), self.tone.mark(), &self.what);
        let line = if colour {
            let (who_colour, tone) = (self.who.colour(), self.tone.colour());
            format!("{time}  {who_colour}{who:<7}{RESET}  {token:<8}  {tone}{mark} {what}{RESET}")
        } else {
            format!("{time}  {who:<7}  {token:<8}  {mark} {what}")
        };
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let mut timeline = Timeline::begin(Style::Quiet);
        timeline.tell(Who::A, Tone::Accepted, Some(7), "writes");
        let mut event = timeline.events()[0].clone();
        event.at_ms = 1234.5;
        event
    }

    #[test]
    fn a_line_tells_when_who_under_which_token_and_what() {
        assert_eq!(
            event().line(false),
            "   1.234 s  A        token 7   ✓ writes"
        );
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let mut coloured = event().line(true);
        assert!(coloured.contains("\x1b["));
        while let Some(at) = coloured.find('\x1b') {
            let end = at + coloured[at..].find('m').unwrap();
            coloured.replace_range(at..=end, "");
        }
        assert_eq!(coloured, event().line(false));
    }

    #[test]
    fn in_json_a_token_is_a_string() {
        let json = serde_json::to_value(event()).unwrap();
        assert_eq!(json["token"], "7");
        assert_eq!(json["who"], "a");
        assert_eq!(json["tone"], "accepted");
    }
}
