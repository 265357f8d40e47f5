fn main() -> std::process::ExitCode {
    fleet::main()
}
