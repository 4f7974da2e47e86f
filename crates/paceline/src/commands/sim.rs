//! `paceline sim`: simulated engines as servers.

use std::io::Write as _;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::SimArgs;
use crate::commands::{Failure, Result, load};

pub(crate) fn run(args: SimArgs) -> Result {
    let mut config = load(args.source.config.as_deref())?.raw.sim;
    let SimArgs { listen, replicas, shape, model, seed, speed, faults, log, .. } = args;
    let SimArgs { provider, key, script, limits, .. } = args;
    config.provider = provider.or(config.provider);
    config.key = key.or(config.key);
    config.script = script.or(config.script);
    config.limits.extend(limits);
    config.listen = listen.unwrap_or(config.listen);
    config.replicas = replicas.unwrap_or(config.replicas);
    config.shape = shape.unwrap_or(config.shape);
    config.model = model.unwrap_or(config.model);
    config.seed = seed.unwrap_or(config.seed);
    config.speed = speed.unwrap_or(config.speed);
    config.faults.extend(faults);
    paceline_telemetry::log::init(log.as_deref().unwrap_or("info"));
    super::serve::core_runtime()?.block_on(serve(config))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: paceline_sim::Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some(vendor) = config.provider {
        let provider = paceline_sim::Provider::bind(vendor, &config)
            .await
            .map_err(|error| Failure::Usage(format!("error: {error}")))?;
        println!("listening on http://{}", provider.address());
        std::io::stdout().flush()?;
        let stopped = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        provider.run(stopped).await;
        return Ok(());
    }
    let server = paceline_sim::Server::bind(&config)
        .await
        .map_err(|error| Failure::Usage(format!("error: {error}")))?;
    for address in server.addresses() {
        println!("listening on http://{address}");
    }
    std::io::stdout().flush()?;
    server
        .run(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
    Ok(())
}
