//! LiteLLM's proxy, another gateway that benchmarks are held against.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::{nginx, tools};

/// It imports a lot of Python before it listens.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A model that it serves, and where from.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The name that callers use; the upstream gets the same.
    pub name: &'a str,
    /// The base URL of an upstream with OpenAI's API, without a path.
    pub url: &'a str,
}

/// A running proxy with one worker and without a database. Dropping it ends it.
#[derive(Debug)]
pub struct Litellm {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Litellm {
    /// Starts it, on one core where one is named, and waits until it listens. It takes the
    /// key from its callers, without which it does not start, and gives it to the upstream.
    /// Panics where it is not installed.
    pub fn start(models: &[Model<'_>], key: &str, core: Option<usize>) -> Self {
        let program = tools::find_litellm()
            .unwrap_or_else(|| panic!("LiteLLM is missing: `cargo xtask bench` installs it"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, config(models, key)).unwrap();
        let port = nginx::free_ports(1)[0];
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &core.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("--config").arg(&path);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--num_workers", "1"]);
        // As its documentation recommends for production.
        command.env("LITELLM_LOG", "ERROR");
        // Prices come from the package, not from the network.
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        command.env_remove("DATABASE_URL").env_remove("OPENAI_API_KEY");
        let mut process = Process::start("litellm", command);
        let listens = || nginx::is_listening(port).then_some(());
        if process.wait_until(READY_WITHIN, listens).is_err() {
            process.fail("ended at once");
        }
        Self { process, port, _folder: folder }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process identifier.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// `config.yaml` with the values of its documentation: `num_retries` as the page on
/// reliability has it, the others as that on production has them.
fn config(models: &[Model<'_>], key: &str) -> String {
    let mut text = "model_list:\n".to_owned();
    for Model { name, url } in models {
        text += &format!(
            "  - model_name: {name}\n    litellm_params:\n      model: openai/{name}\n      \
             api_base: {url}/v1\n      api_key: {key}\n"
        );
    }
    text + "litellm_settings:\n  num_retries: 3\n  request_timeout: 600\n  set_verbose: false\n"
        + &format!("general_settings:\n  master_key: {key}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_its_upstream() {
        let model = |name, url| Model { name, url };
        let text = config(&[model("a", "http://x:1"), model("b", "http://x:2")], "k");
        assert_eq!(
            text,
            "model_list:\n\
             \x20 - model_name: a\n    litellm_params:\n      model: openai/a\n\
             \x20     api_base: http://x:1/v1\n      api_key: k\n\
             \x20 - model_name: b\n    litellm_params:\n      model: openai/b\n\
             \x20     api_base: http://x:2/v1\n      api_key: k\n\
             litellm_settings:\n  num_retries: 3\n  request_timeout: 600\n  set_verbose: false\n\
             general_settings:\n  master_key: k\n"
        );
    }
}
