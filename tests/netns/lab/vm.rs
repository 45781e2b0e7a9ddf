//! Tests that need what the kernel at hand may lack run once more, under a
//! stock kernel in a virtual machine. Must not know what they test.

use std::process::{Command, ExitStatus};
use std::sync::{Once, OnceLock};
use std::{env, thread};

use super::{Lab, Netns};

/// The tests that need ESP, whose names make them the last, and how long all of
/// them may take, in seconds.
const WITH_ESP: &str = "esp::";
const LIMIT: &str = "1200";
/// Set by the runner.
const IN_GUEST: &str = "WOVE_VM";

/// How the run in the guest ended, for all of them.
static RUN: OnceLock<ExitStatus> = OnceLock::new();

impl Lab {
    /// Whether the test has been run elsewhere, together with all that need it,
    /// because this kernel has no ESP. If it has, the test goes on here.
    pub(crate) fn ran_with_esp(&self) -> bool {
        let Some(fault) = Netns::new().run(wove::shell::xfrm::fault) else {
            return false;
        };
        assert!(env::var_os(IN_GUEST).is_none(), "in the guest: {fault}");
        let status = RUN.get_or_init(run);
        assert!(status.success(), "in the guest: {status} ({fault} here)");
        true
    }
}

/// Begins with the guest while other tests run, if all are to be run.
pub(super) fn begin_early() {
    static BEGUN: Once = Once::new();
    let is_all = || {
        env::args()
            .skip(1)
            .all(|argument| argument.starts_with('-'))
    };
    BEGUN.call_once(|| {
        if is_all() && env::var_os(IN_GUEST).is_none() {
            let lacks_esp = || Netns::new().run(wove::shell::xfrm::fault).is_some();
            thread::spawn(move || lacks_esp().then(|| RUN.get_or_init(run)));
        }
    });
}

fn run() -> ExitStatus {
    let program = env::current_exe().expect("a test has a path");
    let runner = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vm/run");
    let mut guest = Command::new(runner);
    guest.args(["-t", LIMIT, "--"]).arg(program);
    let status = guest
        .args(["--nocapture", "--test-threads=1", WITH_ESP])
        .status();
    status.expect("the runner is a part of the repository")
}
