//! What signals do, to a real process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use app::Shutdown;

/// Set for the process that is signalled: this test binary, started again with one test alone.
const CHILD: &str = "SHUTDOWN_TEST_CHILD";

struct Program {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_program_that_is_signalled", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut program = Self { child, lines };
        program.wait_for("listening");
        program
    }

    fn wait_for(&mut self, word: &str) {
        let found = self.lines.any(|line| line.unwrap().ends_with(word));
        assert!(found, "the program ended without saying {word:?}");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[tokio::test]
async fn the_program_that_is_signalled() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let shutdown = Shutdown::on_signals().unwrap();
    println!("\nlistening");
    shutdown.triggered().await;
    println!("\ntriggered");
    std::future::pending::<()>().await;
}

#[test]
fn the_first_signal_triggers_and_the_second_ends_at_once() {
    for (first, second, exit_code) in [
        ("TERM", "TERM", 143),
        ("INT", "INT", 130),
        ("TERM", "INT", 130),
    ] {
        let mut program = Program::start();
        program.signal(first);
        program.wait_for("triggered");
        program.signal(second);
        assert_eq!(program.exit_code(), Some(exit_code), "{first}, {second}");
    }
}
