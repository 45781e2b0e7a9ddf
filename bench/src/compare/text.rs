//! Picking figures out of what other programs print.

use anyhow::{Context, Result};
use serde_json::Value;

/// The round-trip times in the output of ping, in microseconds.
pub(super) fn round_trips(ping: &str) -> Vec<f64> {
    ping.lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .map(|ms: f64| ms * 1000.0)
        .collect()
}

/// User and system time of a process in clock ticks, from `/proc/PID/stat`.
pub(super) fn ticks(stat: &str) -> Option<u64> {
    // The name of the program, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(field(11)? + field(12)?)
}

/// One line of `/proc/PID/status` that ends in kB.
pub(super) fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Bits per second and bytes received, from the JSON of iperf3.
///
/// # Errors
/// What iperf3 says went wrong.
pub(super) fn received(iperf: &str) -> Result<(f64, f64)> {
    let json: Value = serde_json::from_str(iperf).context("iperf3 printed no JSON")?;
    if let Some(error) = json["error"].as_str() {
        anyhow::bail!("iperf3: {error}");
    }
    let sum = &json["end"]["sum_received"];
    let field = |name: &str| {
        let value = sum[name].as_f64();
        value.with_context(|| format!("iperf3 does not say {name}"))
    };
    Ok((field("bits_per_second")?, field("bytes")?))
}

/// The value below which `share` of the values are; 0 of none.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_ping_are_read_and_the_rest_is_not() {
        let output = "PING 10.0.0.2 56(84) bytes of data.\n\
            64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.108 ms\n\
            64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=12.5 ms (DUP!)\n\
            rtt min/avg/max/mdev = 0.1/0.2/0.3/0.4 ms";
        assert_eq!(round_trips(output), [108.0, 12_500.0]);
    }

    #[test]
    fn a_process_named_like_a_stat_line_is_not_misread() {
        let stat = "7 (a) 1 2 b) S 1 1 1 0 -1 4194304 10 0 0 0 250 50 0 0 20 0 1";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (cut"), None);
        assert_eq!(
            kilobytes("VmPeak:\t 9 kB\nVmHWM:\t  1234 kB\n", "VmHWM"),
            Some(1234)
        );
    }

    #[test]
    fn an_error_of_iperf3_is_passed_on() {
        let error = received(r#"{"error":"unable to connect"}"#).expect_err("an error");
        assert!(error.to_string().contains("unable to connect"));
        let good = r#"{"end":{"sum_received":{"bits_per_second":8e9,"bytes":1e9}}}"#;
        assert_eq!(received(good).expect("figures"), (8e9, 1e9));
    }

    #[test]
    fn quantiles_of_few_values_are_some_of_them() {
        assert_eq!(quantile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.99), 3.0);
    }
}
