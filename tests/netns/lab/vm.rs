//! Tests that need what the kernel at hand may lack run once more, under a
//! stock kernel in a virtual machine. Must not know what they test.

use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

use super::{Lab, Netns};

/// The tests that need ESP, and how long all of them may take, in seconds.
const WITH_ESP: &str = "esp::";
const LIMIT: &str = "1200";

/// How the run in the guest ended, for all of them.
static RUN: OnceLock<ExitStatus> = OnceLock::new();

impl Lab {
    /// Whether the test has been run elsewhere, together with all that need it,
    /// because this kernel has no ESP. If it has, the test goes on here.
    pub(crate) fn ran_with_esp(&self) -> bool {
        let Some(fault) = Netns::new().run(wove::shell::xfrm::fault) else {
            return false;
        };
        assert!(
            std::env::var_os("WOVE_VM").is_none(),
            "in the guest: {fault}"
        );
        let status = RUN.get_or_init(|| {
            let program = std::env::current_exe().expect("a test has a path");
            let runner = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vm/run");
            let mut guest = Command::new(runner);
            guest.args(["-t", LIMIT, "--"]).arg(program);
            let status = guest
                .args(["--nocapture", "--test-threads=1", WITH_ESP])
                .status();
            status.expect("the runner is a part of the repository")
        });
        assert!(status.success(), "in the guest: {status} ({fault} here)");
        true
    }
}
