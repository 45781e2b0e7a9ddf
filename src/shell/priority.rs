//! Threads that carry frames go before ordinary work, as the kernel's own network
//! does: a frame that waits for a processor keeps everybody waiting who talks.

/// Their nice value. An operator's own (systemd's `Nice=`) is left alone.
const NICE: i32 = -10;

/// Lets the calling thread go before others.
pub(super) fn go_first() {
    use rustix::process::{getpriority_process, setpriority_process};
    // To Linux this is a matter of the thread, and so is none given.
    let raised = getpriority_process(None).and_then(|nice| match nice {
        0 => setpriority_process(None, NICE),
        _ => Ok(()),
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "a data thread has ordinary priority");
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts a thread")]
mod tests {
    use std::{fs, thread};

    use super::*;

    #[test]
    fn one_thread_goes_first_and_no_other() {
        let nice = |path: &str| {
            let stat = fs::read_to_string(path).unwrap();
            let fields = stat.rsplit(')').next().unwrap().split_whitespace();
            fields.clone().nth(16).unwrap().parse::<i32>().unwrap()
        };
        let own = nice("/proc/thread-self/stat");
        let raised = thread::spawn(move || {
            go_first();
            nice("/proc/thread-self/stat")
        });
        let expected = if own == 0 { NICE } else { own };
        assert_eq!(raised.join().unwrap(), expected, "as root");
        assert_eq!(nice("/proc/thread-self/stat"), own);
    }
}
