//! `realmgate serve`: gathers the settings, checks everything that can be checked, then runs.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::Failure;
use super::policy::document;
use crate::serve::serve;
use crate::settings::{ConfigFile, Setting, Settings, Sources, table};
use crate::telemetry::logs;

/// Read from the working directory when it is there and `--config` names no other.
const DEFAULT_FILE: &str = "realmgate.yaml";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Settings file [default: realmgate.yaml, if there is one in the working directory]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// A flag for every setting.
#[derive(Debug)]
struct Flags(Vec<(&'static Setting, String)>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.next_help_heading("Settings").args(table().iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let Setting { path, flag, env, help, .. } = setting;
    let help = format!("{help} [env: {env}] [default: {}]", setting.default_text());
    let arg = Arg::new(path.as_str()).long(flag.as_str()).help(help).action(ArgAction::Set);
    if setting.is_switch() {
        arg.value_name("BOOL").num_args(0..=1).default_missing_value("true")
    } else {
        arg.value_name("VALUE")
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = table().iter().filter_map(|s| Some((s, matches.get_one::<String>(&s.path)?.clone())));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let file = read_file(arguments.config.as_deref())?;
    let name = file.as_ref().map(|f| f.name.clone());
    let sources = Sources { file, env: env::vars_os().collect(), flags: arguments.flags.0 };
    let settings = sources.settings().map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Failure::invalid(format!("invalid settings:\n{}", lines.join("\n")))
    })?;
    check_policy(&settings)?;

    logs::init(&settings.log).map_err(Failure::failed)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), file = name, "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::failed(format!("cannot start threads: {e}")))?;
    let served = runtime.block_on(serve(settings));
    // Work that nobody waits for any more must not hold the process up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.map_err(|e| if e.is_invalid_configuration() { Failure::invalid(e) } else { Failure::failed(e) })
}

fn read_file(config: Option<&Path>) -> Result<Option<ConfigFile>, Failure> {
    let path = config.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(ConfigFile { name: path.display().to_string(), text })),
        Err(e) if e.kind() == io::ErrorKind::NotFound && config.is_none() => Ok(None),
        Err(e) => Err(Failure::invalid(format!("cannot read the settings file {}: {e}", path.display()))),
    }
}

/// A policy that cannot be applied is found before any port is bound.
fn check_policy(settings: &Settings) -> Result<(), Failure> {
    let Some(file) = &settings.policy.file else { return Ok(()) };
    let text = document::read(file).map_err(|e| Failure::invalid(format!("policy.file: {e}")))?;
    document::check(file, &text).map(drop)
}
