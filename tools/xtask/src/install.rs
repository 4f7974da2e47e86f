//! Installs what the tests need into `.cache/`, and changes nothing else on the machine.
//!
//! Everything is pinned. A stamp beside each part holds what it was made from, so that a
//! second run does nothing, and a changed pin installs anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use testkit::clients::FRAMEWORKS;
use testkit::tools;

use crate::phases::{Phases, cargo, output};

/// The tool of the dependency policy. Its debug build takes 40 s on two cores.
const CARGO_DENY: &str = "0.20.2";

/// Node for the tests with the JavaScript SDKs; newer than the one that Debian has.
const NODE: &str = "24.21.0";

/// Programs of the tests and the Debian packages that bring them.
const FOR_TESTS: &[(&str, &str)] = &[("nginx", "nginx")];

/// Programs of the benchmarks, likewise.
const FOR_BENCHES: &[(&str, &str)] =
    &[("nginx", "nginx"), ("wrk", "wrk"), ("valgrind", "valgrind")];

/// The module by which nginx writes a reply in many chunks.
pub(crate) const NGINX_ECHO: &str = "ngx_http_echo_module.so";

/// Everything that `cargo xtask test` needs.
pub(crate) fn for_tests(phases: &mut Phases) -> Result<()> {
    cargo_deny(phases)?;
    debian(phases, FOR_TESTS)?;
    python(phases, "python")?;
    node(phases)
}

/// Everything that `cargo xtask test --frameworks` needs: their versions conflict, so each has
/// an environment of its own.
pub(crate) fn for_frameworks(phases: &mut Phases) -> Result<()> {
    FRAMEWORKS.iter().try_for_each(|name| {
        let folder = tools::framework_folder(name);
        python(phases, &folder)
    })
}

/// Everything that `cargo xtask bench` needs.
pub(crate) fn for_benches(phases: &mut Phases) -> Result<()> {
    debian(phases, FOR_BENCHES)?;
    if tools::find_nginx_module(NGINX_ECHO).is_none() {
        let package = "libnginx-mod-http-echo";
        phases.run(&format!("install {package} (Debian, unpacked into .cache/debian)"), || {
            unpack(&[package])
        })?;
    }
    Ok(())
}

/// The name and version of a package that `clients/NAME/requirements.txt` pins.
pub(crate) fn pinned(name: &str, package: &str) -> Result<String> {
    let file = requirements(name);
    let pins = read(&file)?;
    let line = pins.lines().find(|line| line.split("==").next() == Some(package));
    let line = line.with_context(|| format!("{} pins no {package}", shown(&file)))?;
    Ok(line.replace("==", " "))
}

/// Where `cargo_deny` puts the program.
pub(crate) fn cargo_deny_path() -> PathBuf {
    tools::cache().join("cargo-deny/bin/cargo-deny")
}

/// Builds cargo-deny from crates.io with its own lock file.
pub(crate) fn cargo_deny(phases: &mut Phases) -> Result<()> {
    install(phases, "cargo-deny", &format!("cargo-deny {CARGO_DENY} from crates.io"), |folder| {
        let target = folder.join("target");
        output(
            cargo()
                .args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked"])
                // It runs for a second: the build is what costs.
                .args(["--profile", "dev", "--root"])
                .arg(folder)
                .env("CARGO_PROFILE_DEV_DEBUG", "0")
                .env("CARGO_TARGET_DIR", &target),
        )?;
        fs::remove_dir_all(&target).context("cannot remove the build folder of cargo-deny")
    })
}

/// A virtual environment in `.cache/NAME` with the packages of `clients/NAME/requirements.txt`.
pub(crate) fn python(phases: &mut Phases, name: &str) -> Result<()> {
    let file = requirements(name);
    let pins = read(&file)?;
    let what = format!("the {} Python packages of {}", pins.lines().count(), shown(&file));
    install_stamped(phases, name, &what, &pins, |folder| {
        need("python3", "the package python3")?;
        let venv = output(Command::new("python3").args(["-m", "venv"]).arg(folder));
        let python = folder.join("bin/python");
        let mut pip = Command::new(&python);
        if venv.is_ok() {
            pip.args(["-m", "pip"]);
        } else {
            // Debian packs the part of `venv` that brings pip on its own.
            output(
                Command::new("python3")
                    .args(["-m", "venv", "--clear", "--without-pip"])
                    .arg(folder),
            )?;
            pip.arg(debian_pip()?);
        }
        let options = ["install", "--quiet", "--disable-pip-version-check", "--requirement"];
        output(pip.args(options).arg(&file))?;
        Ok(())
    })
}

fn requirements(name: &str) -> PathBuf {
    tools::repository().join("tools/testkit/clients").join(name).join("requirements.txt")
}

/// The pinned Node, and with it the JavaScript SDKs beside the scripts that use them.
fn node(phases: &mut Phases) -> Result<()> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => bail!("there is no pinned Node for {other}"),
    };
    let package = format!("node-linux-{machine}@{NODE}");
    install(phases, "node", &format!("{package} from npm"), |folder| {
        need("npm", "the package npm")?;
        npm(["install", "--no-save", "--prefix"]).arg(folder).arg(&package).run()
    })?;
    let clients = tools::repository().join("tools/testkit/clients/node");
    let lock = read(&clients.join("package-lock.json"))?;
    let what = format!("npm packages of {}", shown(&clients.join("package-lock.json")));
    install_stamped(phases, "node-clients", &what, &lock, |_| {
        npm(["ci", "--prefix"]).arg(&clients).run()
    })
}

/// An npm command that runs no scripts of packages and asks no questions.
struct Npm(Command);

fn npm<const N: usize>(arguments: [&str; N]) -> Npm {
    let mut command = Command::new("npm");
    command.args(["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    command.args(arguments);
    Npm(command)
}

impl Npm {
    fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    fn run(mut self) -> Result<()> {
        output(&mut self.0)?;
        Ok(())
    }
}

/// Unpacks the Debian packages of programs that are not on the PATH.
fn debian(phases: &mut Phases, programs: &[(&str, &str)]) -> Result<()> {
    for (program, package) in programs {
        if tools::find_debian(program).is_none() {
            phases
                .run(&format!("install {package} (Debian, unpacked into .cache/debian)"), || {
                    unpack(&[package])
                })?;
        }
    }
    Ok(())
}

/// Downloads packages with the dependencies that this machine lacks, and unpacks them
/// into `.cache/debian`. Nothing is installed, so no service starts and nothing else on
/// the machine changes. The package lists are kept beside it, so root is not needed.
fn unpack(packages: &[&str]) -> Result<()> {
    need("apt-get", "Debian or a relative of it")?;
    let apt = tools::cache().join("apt");
    let downloads = apt.join("downloads");
    for folder in ["lists/partial", "cache/archives/partial", "downloads"] {
        make_dir(&apt.join(folder))?;
    }
    let apt_get = || {
        let mut command = Command::new("apt-get");
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        command
            .args(["-o", &option("Dir::State::Lists", &apt.join("lists"))])
            .args(["-o", &option("Dir::Cache", &apt.join("cache"))])
            .args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir(&downloads);
        command
    };
    output(apt_get().arg("update")).context("the package lists of Debian cannot be read")?;
    let simulated = ["install", "--simulate", "--no-install-recommends"];
    let plan = output(apt_get().args(simulated).args(packages))?;
    let names = planned(&plan);
    eprintln!("    packages: {}", names.join(" "));
    output(apt_get().arg("download").args(&names))?;
    let root = tools::cache().join("debian");
    make_dir(&root)?;
    for entry in fs::read_dir(&downloads).context("cannot list the downloaded packages")? {
        let path = entry?.path();
        output(Command::new("dpkg").arg("--extract").arg(&path).arg(&root))?;
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// The packages in the output of `apt-get install --simulate`.
fn planned(output: &str) -> Vec<&str> {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// pip from Debian's package of wheels, for machines whose Python comes without it.
fn debian_pip() -> Result<PathBuf> {
    unpack(&["python3-pip-whl"])?;
    let wheels = tools::cache().join("debian/usr/share/python-wheels");
    let entries = fs::read_dir(&wheels).context("python3-pip-whl brought no wheels")?;
    let wheel = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains("/pip-"))
        .context("python3-pip-whl brought no pip")?;
    // Python runs the package inside a wheel when it is named as a path in it.
    Ok(wheel.join("pip"))
}

/// Installs a part into `.cache/NAME` unless it is there already, made from `what`.
fn install(
    phases: &mut Phases,
    name: &str,
    what: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    install_stamped(phases, name, what, what, make)
}

/// The same for a part that `what` describes and `stamp` pins.
fn install_stamped(
    phases: &mut Phases,
    name: &str,
    what: &str,
    stamp: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let folder = tools::cache().join(name);
    let file = folder.join(".installed");
    if fs::read_to_string(&file).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    phases.run(&format!("install {what} into {}", shown(&folder)), || {
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot remove the old version")?;
        }
        make_dir(&folder)?;
        make(&folder)?;
        fs::write(&file, stamp).context("cannot write the stamp")
    })
}

/// Fails clearly where a program is missing that only the machine's owner may install.
fn need(program: &str, source: &str) -> Result<()> {
    if tools::on_path(program).is_none() {
        bail!("{program} is missing, and this command may not install it: it comes with {source}");
    }
    Ok(())
}

fn make_dir(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A path as seen from the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(tools::repository()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_packages_are_found() {
        assert!(pinned("litellm", "litellm").unwrap().starts_with("litellm 1."));
        assert!(pinned("python", "openai").unwrap().starts_with("openai "));
        assert!(pinned("python", "open").is_err());
    }

    #[test]
    fn planned_reads_what_apt_would_install() {
        let text = "Reading package lists...\n\
                    Inst libluajit-5.1-2 (2.1 Debian:12 [amd64])\n\
                    Inst wrk (4.1.0-3+b2 Debian:12 [amd64])\n\
                    Conf wrk (4.1.0-3+b2 Debian:12 [amd64])\n";
        assert_eq!(planned(text), ["libluajit-5.1-2", "wrk"]);
    }
}
