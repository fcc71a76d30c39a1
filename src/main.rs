//! The command line, as an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before there is a second thread, and before the first name is looked up.
    perch::os::pin_name_service();
    perch::cli::main()
}
