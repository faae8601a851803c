//! What a program's tracing subscriber gets to see.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use lockd::dev::DevCell;
use lockd_client::{Background, Client, Wait};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

type Fields = BTreeMap<&'static str, String>;

/// Spans in the order in which they were opened, with their fields.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(&'static str, Fields)>>>);

/// Which of them this is.
struct Place(usize);

struct Into<'a>(&'a mut Fields);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        self.0
            .insert(field.name(), text.trim_matches('"').to_owned());
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() == "lockd_client" {
            let mut fields = Fields::new();
            attributes.record(&mut Into(&mut fields));
            let mut spans = self.0.lock().expect("no panic");
            let span = context.span(id).expect("it is new");
            span.extensions_mut().insert(Place(spans.len()));
            spans.push((attributes.metadata().name(), fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is open");
        if let Some(Place(place)) = span.extensions().get() {
            let mut spans = self.0.lock().expect("no panic");
            values.record(&mut Into(&mut spans[*place].1));
        }
    }
}

impl Spans {
    fn named(&self, name: &str) -> Vec<Fields> {
        let spans = self.0.lock().expect("no panic");
        let named = spans.iter().filter(|(it, _)| *it == name);
        named.map(|(_, fields)| fields.clone()).collect()
    }
}

#[tokio::test]
async fn spans_say_what_was_waited_for_and_what_came_of_it() {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    let _here = tracing::subscriber::set_default(subscriber);
    let cell = DevCell::start(None).expect("a cell");
    let client = Client::builder()
        .config_file(cell.client_config())
        .expect("the cell's own configuration")
        .description("spanned")
        .background(Background::CallersRuntime)
        .connect()
        .await
        .expect("the cell runs");
    let other = client.session().open().await.expect("open");

    let guard = client.lock("orders/42").acquire().await.expect("free");
    let tried = other
        .all_of(["orders/42", "b"])
        .wait(Wait::Try)
        .acquire()
        .await;
    tried.expect_err("it is held");
    {
        let mut waiting = Box::pin(other.lock("orders/42").acquire());
        let limit = std::time::Duration::from_millis(20);
        tokio::time::timeout(limit, &mut waiting)
            .await
            .expect_err("it is held");
    }
    assert_eq!(guard.run(async { 7 }).await, Ok(7));
    let token = guard.token().to_string();
    guard.release().await.expect("held");
    let long = "x".repeat(200);
    let two = [format!("{long}/1"), format!("{long}/2")];
    drop(client.all_of(&two).acquire().await.expect("free"));

    assert_eq!(spans.named("connect")[0]["outcome"], "connected");
    let sessions = spans.named("session");
    assert_eq!(sessions[0]["description"], "spanned");
    assert_eq!(sessions[0]["outcome"], "open");
    let acquired = spans.named("acquire");
    assert_eq!(acquired[0]["locks"], "orders/42");
    assert_eq!(acquired[0]["outcome"], "granted");
    assert_eq!(acquired[0]["token"], token);
    assert_eq!(acquired[1]["locks"], "orders/42, b");
    assert_eq!(acquired[1]["wait"], "Try");
    assert!(
        acquired[1]["outcome"].contains("held by session"),
        "{:?}",
        acquired[1]
    );
    assert_eq!(acquired[2]["outcome"], "given up");
    let cut = &acquired[3]["locks"];
    assert!(cut.len() <= 256 && cut.ends_with("..."), "{cut}");
    assert_eq!(spans.named("run")[0]["outcome"], "done");
    let released = &spans.named("release")[0];
    assert_eq!(
        (&*released["locks"], &*released["outcome"]),
        ("orders/42", "released")
    );
}
