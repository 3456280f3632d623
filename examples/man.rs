//! Prints kielink's manual page (`kielink.1`), made of the command line: `cargo run --example man`. For packages.

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

fn main() -> io::Result<()> {
    let command = kielink::cli::Cli::command();
    let man = Man::new(command.clone()).manual("kielink");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    // On one page, as nobody looks for kielink-healthcheck(1).
    for subcommand in command.get_subcommands() {
        let title = format!("kielink {}", subcommand.get_name());
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        Roff::new().control("SH", [title.as_str()]).text([roman(about)]).to_writer(&mut page)?;
        for option in subcommand.get_arguments().filter_map(|it| Some((it.get_long()?, it.get_help()?.to_string()))) {
            let (name, help) = option;
            let name = format!("--{name}");
            Roff::new().control("TP", []).text([roman(name)]).text([roman(help)]).to_writer(&mut page)?;
        }
    }
    let files = [
        ("/etc/kielink/kie_api_key", "the key: root's alone"),
        ("/etc/default/kielink", "settings, KIELINK__SECTION__KEY=value"),
    ];
    Roff::new().control("SH", ["FILES"]).text([roman("Under systemd, as packaged:")]).to_writer(&mut page)?;
    for (path, what) in files {
        Roff::new().control("TP", []).text([roman(path)]).text([roman(what)]).to_writer(&mut page)?;
    }
    io::stdout().write_all(&page)
}
