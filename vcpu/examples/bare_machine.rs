//! Runs a kernel in this process alone, its first UART on standard output: for profiling the engine.
//!
//! `cargo run --release -p vcpu --example bare_machine KERNEL INITRD "CMDLINE" [RAM_MIB] [ICOUNT_LIMIT]`

use replay::event::ShutdownCause;
use replay::machine::{Boot, Clock, CpuChoice, Machine as Description, PanicAction};
use replay::setup::{Mode, VcpuSetup};
use std::io::Write;
use vcpu::interp::Stop;
use vcpu::run::consoles::Consoles;
use vcpu::run::machine::Machine;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let setup = setup(&arguments, number(3, 256));
    let limit = number(4, u64::MAX);
    let mut machine =
        Machine::new(&setup, Consoles::default().into()).unwrap_or_else(|error| panic!("{error}"));
    machine.core.entropy = vcpu::system::entropy::Entropy::new([7; 32]);
    let start = std::time::Instant::now();
    let end = run(&mut machine, limit);
    let seconds = start.elapsed().as_secs_f64();
    let millions = machine.icount() as f64 / 1e6;
    eprintln!("{end}: {millions:.1} M instructions, {seconds:.2} s, {:.1} M/s", millions / seconds);
    eprintln!("rip {:#x}, guest time {}", machine.core.cpu.rip, machine.vtime());
}

fn setup(arguments: &[String], ram_mib: u64) -> VcpuSetup {
    let text = |index: usize| arguments.get(index).cloned().unwrap_or_default();
    let initrd = Some(text(1)).filter(|path| !path.is_empty()).map(Into::into);
    let machine = Description {
        ram_bytes: ram_mib << 20,
        cpu: CpuChoice { model: std::env::var("CPU").unwrap_or("x86-64-v3".into()), features: vec![] },
        cpu_count: 1,
        boot: Boot { kernel: Some(text(0).into()), initrd, cmdline: text(2) },
        clock: Clock { shift: 3, auto: false, sleep: false, rtc_base: 1_700_000_000, host_offset_s: None },
        uarts: vec![Some(0)],
        devices: vec![],
        functions: vec![],
        no_reboot: true,
        no_shutdown: false,
        panic_action: PanicAction::None,
        debug_exit_port: Some(0xf4),
        debug_console: None,
        uuid: None,
    };
    VcpuSetup::alone(machine, Mode::Plain)
}

fn run(machine: &mut Machine, limit: u64) -> String {
    loop {
        machine.advance_timers();
        print(machine);
        if let Some(cause) = machine.serve_effects() {
            return format!("{cause:?}");
        }
        let next = (machine.icount() + 100_000).min(limit);
        match machine.run(next) {
            Stop::Limit | Stop::Service | Stop::Probe => {}
            Stop::Halted => {
                let Some(deadline) = machine.core.chipset.next_deadline() else {
                    return "halted for ever".into();
                };
                let icount = machine.icount();
                machine.core.clock.skip_to(icount, deadline.max(machine.vtime()));
            }
            Stop::TripleFault => return format!("{:?}", ShutdownCause::TripleFault),
            Stop::Stuck => return "stuck".into(),
        }
        if machine.icount() >= limit {
            return "limit".into();
        }
    }
}

fn print(machine: &mut Machine) {
    let bytes = machine.core.chipset.take_uart_output(0);
    if !bytes.is_empty() {
        let mut out = std::io::stdout();
        out.write_all(&bytes).and_then(|()| out.flush()).expect("standard output takes the console");
    }
}
