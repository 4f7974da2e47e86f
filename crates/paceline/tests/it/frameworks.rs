//! Agent frameworks, unchanged, each before all simulated providers: an agent calls its tool,
//! gets the result, and answers. `cargo xtask test --frameworks` installs them and runs these.

use testkit::{Sim, clients, tools};

use crate::providers::{VENDORS, before};

/// Runs a framework's script once for each provider; it tells so many points each time.
fn before_each_provider(framework: &str, points: usize) {
    let script = tools::repository().join("tools/testkit/clients/frameworks/shared/script.toml");
    let script = script.display().to_string();
    for vendor in VENDORS {
        let arguments = ["--provider", vendor, "--script", &script, "--speed", "200"];
        let sim = arguments.iter().fold(Sim::new(), |sim, argument| sim.arg(argument));
        let sim = sim.arg("--key").arg("the-key").start();
        let gateway = before(vendor, sim.url(), "");
        let output =
            clients::framework(framework, &[("BASE_URL", gateway.url()), ("UPSTREAM", vendor)]);
        let told = output.lines().filter(|line| line.starts_with("ok ")).count();
        assert_eq!(told, points, "{framework} before {vendor}: {output}");
        gateway.wait_until_idle();
        println!("{framework} before {vendor}: {told} points");
    }
}

/// The versions in the documentation are those that the tests install.
#[test]
fn the_documented_versions_are_tested() {
    let read = |path: &str| std::fs::read_to_string(tools::repository().join(path)).unwrap();
    let pins = clients::FRAMEWORKS
        .map(|name| read(&format!("tools/testkit/clients/frameworks/{name}/requirements.txt")));
    let pinned: Vec<&str> = pins.iter().flat_map(|pins| pins.lines()).collect();
    let page = read("docs/frameworks.md");
    let told: Vec<&str> = page.split('`').filter(|code| code.contains("==")).collect();
    assert!(told.len() >= clients::FRAMEWORKS.len(), "{told:?}");
    let wrong: Vec<_> = told.iter().filter(|version| !pinned.contains(*version)).collect();
    assert!(wrong.is_empty(), "docs/frameworks.md tells {wrong:?}");
}

#[test]
#[ignore = "needs what `cargo xtask test --frameworks` installs"]
fn google_adk() {
    before_each_provider("adk", 27);
}

#[test]
#[ignore = "needs what `cargo xtask test --frameworks` installs"]
fn autogen() {
    before_each_provider("autogen", 17);
}

#[test]
#[ignore = "needs what `cargo xtask test --frameworks` installs"]
fn crewai() {
    before_each_provider("crewai", 21);
}

#[test]
#[ignore = "needs what `cargo xtask test --frameworks` installs"]
fn langgraph() {
    before_each_provider("langgraph", 42);
}

#[test]
#[ignore = "needs what `cargo xtask test --frameworks` installs"]
fn llamaindex() {
    before_each_provider("llamaindex", 32);
}

#[test]
#[ignore = "needs what `cargo xtask test --frameworks` installs"]
fn openai_agents() {
    before_each_provider("openai-agents", 26);
}
