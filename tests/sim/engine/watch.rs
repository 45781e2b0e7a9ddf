//! Collects what is logged as an error while a world runs: none may be.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    subscriber::{DefaultGuard, set_default},
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry,
};

/// Listens on this thread until it is dropped.
pub struct Watch {
    errors: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
}

impl Watch {
    pub fn new() -> Self {
        let errors: Arc<Mutex<Vec<String>>> = Arc::default();
        let listener = Listener(Arc::clone(&errors));
        let _guard = set_default(registry().with(listener));
        Self { errors, _guard }
    }

    /// The first error that was logged.
    pub fn error(&self) -> Option<String> {
        self.errors
            .lock()
            .ok()
            .and_then(|errors| errors.first().cloned())
    }
}

struct Listener(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Listener {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        if let Ok(mut errors) = self.0.lock() {
            errors.push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}
