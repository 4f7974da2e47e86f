//! `paceline config`: check, show, schema.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::{ConfigArgs, ConfigCommand};
use crate::commands::{Failure, Loaded, Result, load, say};
use crate::config::{Raw, resolve};

pub(crate) fn run(args: ConfigArgs) -> Result {
    match args.command {
        ConfigCommand::Check { file, json } => {
            let loaded = load(file.as_deref());
            let checked = loaded.and_then(|loaded| check(&loaded).map(|()| loaded));
            match (checked, json) {
                (Ok(loaded), false) => println!("{}: good", name(&loaded)),
                (Ok(_), true) => println!("{}", json!({"valid": true, "message": null})),
                (Err(failure), false) => return Err(failure),
                (Err(failure), true) => {
                    println!("{}", json!({"valid": false, "message": failure.shown()}));
                    return Ok(ExitCode::from(2));
                }
            }
        }
        ConfigCommand::Show { file, json } => {
            let loaded = load(file.as_deref())?;
            check(&loaded)?;
            let masked = masked(loaded.raw);
            if json {
                say(&(serde_json::to_string_pretty(&masked)?
                    + "
"))?;
            } else {
                say(&toml::to_string_pretty(&masked)?)?;
            }
        }
        ConfigCommand::Schema => {
            let schema = schemars::schema_for!(Raw);
            say(&(serde_json::to_string_pretty(&schema)?
                + "
"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(loaded: &Loaded) -> Result<()> {
    resolve(&loaded.raw, &loaded.environment)
        .map(|_| ())
        .map_err(|faults| Failure::config(&loaded.text, &faults))
}

fn name(loaded: &Loaded) -> String {
    loaded.text.path.as_ref().map_or("the defaults".to_owned(), |path| path.display().to_string())
}

/// The fields with every secret replaced, also those written out in the file.
fn masked(mut raw: Raw) -> Raw {
    let mask = |secret: &mut toml::Spanned<String>| *secret.as_mut() = "***".to_owned();
    raw.keys.iter_mut().for_each(|key| mask(&mut key.key));
    for deployment in &mut raw.deployments {
        deployment.api_key.iter_mut().chain(&mut deployment.api_keys).for_each(mask);
        if let Some(aws) = &mut deployment.aws {
            mask(&mut aws.secret_access_key);
            aws.session_token.iter_mut().for_each(mask);
        }
    }
    raw
}
