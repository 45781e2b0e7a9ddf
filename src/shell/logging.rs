//! Where log lines go: standard error, as text or JSON, behind a filter that
//! can be changed while the daemon runs. It knows nothing of what is logged.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use super::config::LogFormat;

/// The longest filter that is accepted, in bytes.
const MAX_FILTER: usize = 1024;

/// Why logging is not as asked for.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error(
        "{0:?} is not a log filter: write error, warn, info, debug, trace, or one of them per module as in wove::engine=debug,info"
    )]
    Filter(String),
    /// Something in this process logs already.
    #[error("logging is set up already: {0}")]
    Taken(String),
}

/// Changes what is logged from now on.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    /// Replaces the filter; a filter that cannot be read leaves the present one.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        self.filter
            .reload(parse_filter(filter)?)
            .map_err(|error| LogError::Taken(error.to_string()))
    }
}

/// Starts to log what passes `filter`. To be called once, before the first line is logged.
pub fn init(format: LogFormat, filter: &str) -> Result<LogControl, LogError> {
    let (filter, handle) = reload::Layer::new(parse_filter(filter)?);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines(format))
        .try_init()
        .map_err(|error| LogError::Taken(error.to_string()))?;
    Ok(LogControl { filter: handle })
}

/// Checks a filter without using it.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse_filter(filter).map(drop)
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.with_ansi(false).json().flatten_event(true).boxed(),
    }
}

fn parse_filter(text: &str) -> Result<EnvFilter, LogError> {
    let refused = || LogError::Filter(text.chars().take(80).collect());
    if text.trim().is_empty() || text.len() > MAX_FILTER {
        return Err(refused());
    }
    // `debgu` alone would parse, as the name of a target, and silence everything.
    if text.split(',').any(|part| !names_a_level(part)) {
        return Err(refused());
    }
    let filter = EnvFilter::try_new(text).map_err(|_| refused())?;
    if text.contains("hickory_proto") {
        return Ok(filter);
    }
    // It warns of what a query holds: whoever can ask could fill the log.
    let quiet = "hickory_proto=off".parse().map_err(|_| refused())?;
    Ok(filter.add_directive(quiet))
}

fn names_a_level(directive: &str) -> bool {
    let level = directive
        .rsplit_once('=')
        .map_or(directive, |(_, level)| level)
        .trim();
    ["off", "error", "warn", "info", "debug", "trace"]
        .iter()
        .any(|known| level.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_levels() {
        for good in [
            "info",
            "DEBUG",
            "wove::engine=debug,info",
            "warn,wove=trace",
            "off",
        ] {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        let long = "info,".repeat(1000);
        for bad in [
            "",
            " ",
            "debgu",
            "wove=",
            "wove=loud",
            "info,,info",
            long.as_str(),
        ] {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_filter_is_replaced_only_by_a_good_one() {
        let (_layer, filter) = reload::Layer::new(parse_filter("info").unwrap());
        let control = LogControl { filter };
        assert!(control.set("wove=debug").is_ok());
        assert!(control.set("wove=loud").is_err());
        let now = control.filter.with_current(ToString::to_string).unwrap();
        assert!(now.contains("wove=debug"), "{now}");
    }
}
