//! Tests that need what the kernel at hand may lack run once more, under a
//! stock kernel in a virtual machine. Must not know what they test.

use std::process::Command;

use super::{Lab, Netns};

impl Lab {
    /// Whether the test of that name has been run elsewhere, because this kernel
    /// has no ESP. If it has, the test goes on here.
    pub(crate) fn ran_with_esp(&self, test: &str) -> bool {
        let Some(fault) = Netns::new().run(wove::shell::xfrm::fault) else {
            return false;
        };
        assert!(
            std::env::var_os("WOVE_VM").is_none(),
            "in the guest: {fault}"
        );
        let program = std::env::current_exe().expect("a test has a path");
        let status = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vm/run"))
            .arg("--")
            .arg(program)
            .args(["--exact", "--nocapture", "--test-threads=1", test])
            .status()
            .expect("the runner is a part of the repository");
        assert!(status.success(), "in the guest: {status} ({fault} here)");
        true
    }
}
