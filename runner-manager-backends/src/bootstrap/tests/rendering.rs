//! What is rendered: quoting, placeholders, sizes, and that other programs take the scripts for what they are.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use runner_manager_core::domain::{Arch, Os, Secret};
use serde_json::json;

use super::super::quote::quote;
use super::super::{Cloud, Download, LINUX, LINUX_FETCH, Mode, ScriptError, Scripts, StartConfig};
use super::super::{WINDOWS, WINDOWS_FETCH};
use super::{callback, direct, runner, scripts};
use crate::settings::read;
use crate::testing::has;

const NASTY: [&str; 12] = [
    "",
    "'",
    "'; touch /tmp/x; '",
    "$(id) `id` ${HOME} \\ \" ! #",
    "two\nlines\n",
    "\r\n",
    "'@\n\u{2018}\u{2019}\u{201a}\u{201b}",
    "</powershell><script>",
    "{{token}}",
    "-n",
    "@/etc/passwd",
    "\u{1b}[0m\u{7f}ÅäöÿЖ漢🦀\u{2028}",
];

fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// What bash makes of a quoted text.
fn by_bash(quoted: &str) -> String {
    let output = piped("bash", &["-u"], format!("value={quoted}\nprintf %s \"$value\"").as_bytes());
    assert!(output.status.success() && output.stderr.is_empty(), "{quoted}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What PowerShell makes of a quoted text, by its grammar's plainest parts: a literal without any sign that
/// means something, or base64 in a call that has only such signs itself.
fn by_powershell(quoted: &str) -> String {
    let literal = |text: &str| {
        let plain = |char: char| char.is_ascii_alphanumeric() || " _./:+=,@%*\\-".contains(char);
        assert!(text.chars().all(plain), "{quoted}");
        text.to_owned()
    };
    let encoded = quoted
        .strip_prefix("([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('")
        .and_then(|rest| rest.strip_suffix("')))"));
    match encoded {
        Some(encoded) => String::from_utf8(STANDARD.decode(literal(encoded)).unwrap()).unwrap(),
        None => literal(quoted.strip_prefix('\'').unwrap().strip_suffix('\'').unwrap()),
    }
}

#[test]
fn nasty_values_come_through_as_they_are() {
    for text in NASTY {
        assert_eq!(by_bash(&quote(Os::Linux, text)), text);
        assert_eq!(by_powershell(&quote(Os::Windows, text)), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_value_comes_through_as_it_is(text in "[^\0]{0,80}", signs in "['\"$`\\\\\n\r;&|(){}<>\u{2018}\u{2019} ]{0,20}") {
        for text in [&text, &signs, &format!("{signs}{text}{signs}")] {
            prop_assert_eq!(&by_bash(&quote(Os::Linux, text)), text);
            prop_assert_eq!(&by_powershell(&quote(Os::Windows, text)), text);
        }
    }
}

#[test]
fn a_value_is_not_looked_into_for_placeholders() {
    let config = StartConfig { job_started: Some("echo {{token}}".to_owned()), ..StartConfig::default() };
    let script = scripts(config, Os::Linux).script(&runner(), &callback("https://x"), None).unwrap();
    assert!(script.expose().contains("job_started='echo {{token}}'\n"));
}

#[test]
fn all_faults_are_told_at_once_with_their_places() {
    let config = read::<StartConfig>(&json!({
        "runner_folder": "relative", "runner_user": "Root!", "proxy": "http://me:secret@proxy:3128",
        "no_proxy": "a b", "job_started": "a\0b", "heartbeat": "10m",
        "download": {"version": "latest", "sha256": "abc", "mirror": "ftp://x"},
        "template": "{{runner}} {{nmae}} {{ not one }}", "fetch_template": "nothing",
    }));
    let faults = Scripts::new(config.unwrap(), Os::Linux, Arch::X64, Duration::from_secs(1)).unwrap_err();
    let told: Vec<_> = faults.iter().map(|fault| fault.path.join(".")).collect();
    assert_eq!(
        told,
        [
            "runner_folder",
            "runner_user",
            "proxy",
            "no_proxy",
            "job_started",
            "heartbeat",
            "download.version",
            "download.mirror",
            "template",
            "template",
            "template",
            "template",
            "fetch_template",
            "fetch_template",
            "fetch_template",
        ]
    );
    assert!(faults[8].message.starts_with("there is no placeholder `nmae`"), "{}", faults[8].message);
    assert!(!format!("{faults:?}").contains("secret@"), "the password is told");
    let macos = Scripts::new(StartConfig::default(), Os::MacOs, Arch::X64, Duration::from_secs(1));
    assert_eq!(macos.unwrap_err()[0].message, "there are no start scripts for macOS");
}

#[test]
fn a_template_of_the_groups_own_takes_the_place_of_ours() {
    let own = "#!/bin/bash\r\n: {{runner}} {{url}} {{token}} {{jit_config}} ${{ kept }}\r\n";
    let config = StartConfig { template: Some(own.to_owned()), ..StartConfig::default() };
    let script = scripts(config, Os::Linux).script(&runner(), &callback("https://x/"), None).unwrap();
    assert_eq!(script.expose(), "#!/bin/bash\n: 'acme-linux-1' 'https://x' 'a-token' '' ${{ kept }}\n");
}

#[test]
fn the_pinned_download_wins_and_is_found_at_the_mirror() {
    let sha256 = "AB".repeat(32);
    let config =
        json!({"download": {"version": "2.330.0", "sha256": sha256, "mirror": "https://mirror/runner/"}});
    let newest = Download::new("https://github.com/newest.tar.gz", &"cd".repeat(32)).unwrap();
    let render = |config: StartConfig| {
        let script = scripts(config, Os::Linux).script(&runner(), &direct(), Some(&newest)).unwrap();
        script.expose().to_owned()
    };
    let pinned = render(read(&config).unwrap());
    assert!(pinned.contains("='https://mirror/runner/v2.330.0/actions-runner-linux-x64-2.330.0.tar.gz'\n"));
    assert!(pinned.contains(&format!("='{}'\n", "ab".repeat(32))));
    assert!(render(StartConfig::default()).contains("='https://github.com/newest.tar.gz'\n"));
}

#[test]
fn user_data_hold_no_more_than_the_mode_needs() {
    for os in [Os::Linux, Os::Windows] {
        let scripts = scripts(StartConfig::default(), os);
        let data =
            |mode: &Mode| scripts.user_data(Cloud::Gcp, &runner(), mode, None).unwrap().expose().to_owned();
        let (fetch, whole) = (data(&callback("https://x")), data(&direct()));
        assert!(fetch.contains("a-token") && fetch.len() < 3000, "{} bytes", fetch.len());
        assert!(!whole.contains("a-token") && whole.contains("eyJheyJh"));
    }
}

#[test]
fn user_data_fit_or_are_refused() {
    let linux = scripts(StartConfig::default(), Os::Linux);
    for cloud in [Cloud::Aws, Cloud::Gcp, Cloud::OpenStack, Cloud::Vsphere] {
        linux.user_data(cloud, &runner(), &direct(), None).unwrap();
        linux.user_data(cloud, &runner(), &callback("https://x"), None).unwrap();
        let windows = scripts(StartConfig::default(), Os::Windows);
        windows.user_data(cloud, &runner(), &callback("https://x"), None).unwrap();
        // EC2 takes 16 KiB: on Windows the script and a JIT config do not fit.
        let whole = windows.user_data(cloud, &runner(), &direct(), None);
        assert_eq!(whole.is_err(), cloud == Cloud::Aws, "{whole:?}");

        // To the byte: one that is just as large as the limit, and one more.
        let (limit, encoded) = cloud.limit();
        let most = if encoded { limit / 4 * 3 } else { limit };
        assert!(cloud.wrap(Os::Linux, &"a".repeat(most)).is_ok());
        let too_large = cloud.wrap(Os::Linux, &"a".repeat(most + 1)).unwrap_err();
        assert!(too_large.size > limit && too_large.limit == limit, "{too_large}");
    }
}

#[test]
fn what_is_unfit_for_a_script_is_refused_and_not_shown() {
    let scripts = scripts(StartConfig::default(), Os::Linux);
    let token =
        |token: &str| Mode::Callback { url: "https://x".to_owned(), ca: None, token: Secret::new(token) };
    let unfit = [
        token(""),
        token("a\"\nurl = file:///etc/shadow"),
        Mode::Direct { jit_config: Secret::new("a b") },
        callback("https://x y"),
        callback("file:///x"),
    ];
    for mode in unfit {
        let error = scripts.script(&runner(), &mode, None).unwrap_err();
        assert!(matches!(error, ScriptError::Unfit(_)) && !error.to_string().contains("shadow"), "{error}");
    }
}

#[test]
fn each_clouds_agent_knows_the_user_data() {
    let data = |os, cloud| {
        let data =
            scripts(StartConfig::default(), os).user_data(cloud, &runner(), &callback("https://x"), None);
        data.unwrap().expose().to_owned()
    };
    let windows = data(Os::Windows, Cloud::Aws);
    assert!(windows.starts_with("<powershell>\n") && windows.ends_with("\n</powershell>\n"));
    assert_eq!(windows.matches("powershell>").count(), 2);
    assert!(data(Os::Windows, Cloud::OpenStack).starts_with("#ps1_sysnative\n"));
    assert!(data(Os::Windows, Cloud::Gcp).starts_with("# Runner Manager"));
    for cloud in [Cloud::Aws, Cloud::Gcp, Cloud::OpenStack, Cloud::Vsphere] {
        assert!(data(Os::Linux, cloud).starts_with("#!/bin/bash\n"));
    }
}

/// All Linux scripts, as they are rendered.
fn rendered() -> Vec<String> {
    let config = StartConfig { job_started: Some("echo 'hi'\n".to_owned()), ..StartConfig::default() };
    let scripts = scripts(config, Os::Linux);
    let text = |secret: Secret| secret.expose().to_owned();
    vec![
        text(scripts.user_data(Cloud::Aws, &runner(), &callback("https://x"), None).unwrap()),
        text(scripts.user_data(Cloud::Aws, &runner(), &direct(), None).unwrap()),
        text(scripts.script(&runner(), &callback("https://x"), None).unwrap()),
    ]
}

#[test]
fn shellcheck_has_nothing_to_say() {
    if !has("shellcheck") {
        return;
    }
    for script in rendered() {
        let output = piped("shellcheck", &["--norc", "-"], script.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// `cloud-init schema` knows `#cloud-config` alone, so cloud-init's own reader is asked what it would run.
#[test]
fn cloud_init_takes_it_for_a_script_and_changes_nothing() {
    const READER: &str = "
import sys
from cloudinit import user_data
class Paths:
    def __getattr__(self, _): return lambda *_: '/nonexistent'
data = sys.stdin.buffer.read()
parts = [p for p in user_data.UserDataProcessor(Paths()).process(data).walk() if not p.is_multipart()]
print(len(parts), parts[0].get_content_type(), parts[0].get_payload(decode=True) == data)
";
    if !has("cloud-init") {
        return;
    }
    for script in rendered() {
        let output = piped("/usr/bin/python3", &["-c", READER], script.as_bytes());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1 text/x-shellscript True\n", "{output:?}");
    }
}

/// The signs of a PowerShell script outside of its comments and texts. It knows what our scripts use: `#`,
/// `'...'`, `"..."` with its escapes and `$(...)`, and `@'...'@`.
fn code(script: &str) -> String {
    let (mut code, mut rest) = (String::new(), script);
    while let Some(char) = rest.chars().next() {
        rest = if let Some(text) = rest.strip_prefix("@'\n") {
            &text[text.find("\n'@").expect("a here-string ends") + 3..]
        } else if rest.starts_with('#') {
            &rest[rest.find('\n').unwrap_or(rest.len())..]
        } else if let Some(text) = rest.strip_prefix('\'') {
            &text[text.find('\'').expect("a text ends") + 1..]
        } else if let Some(text) = rest.strip_prefix('"') {
            quoted_rest(text)
        } else {
            code.push(char);
            &rest[char.len_utf8()..]
        };
    }
    code
}

/// What stands behind a text in double quotes.
fn quoted_rest(text: &str) -> &str {
    let (mut depth, mut escaped, mut inner_quote) = (0, false, false);
    for (index, char) in text.char_indices() {
        let before = text[..index].chars().next_back();
        match char {
            _ if escaped => escaped = false,
            '`' => escaped = true,
            '(' if before == Some('$') || depth > 0 => depth += 1,
            ')' if depth > 0 => depth -= 1,
            '"' if depth > 0 => inner_quote = !inner_quote,
            '"' => return &text[index + 1..],
            '\n' => break,
            _ => {}
        }
    }
    panic!("a text does not end: {}", text.lines().next().unwrap_or_default());
}

/// No PowerShell is at hand to parse them: brackets, texts and the names of functions are what is looked at.
#[test]
fn the_windows_scripts_are_well_formed() {
    for template in [WINDOWS, WINDOWS_FETCH] {
        let mut open = Vec::new();
        let code = code(template);
        assert!(code.is_ascii());
        for char in code.chars() {
            match char {
                '(' => open.push(')'),
                '[' => open.push(']'),
                '{' => open.push('}'),
                ')' | ']' | '}' => assert_eq!(open.pop(), Some(char)),
                _ => {}
            }
        }
        assert!(open.is_empty(), "{open:?} is missing");
        let names = |text: &str| -> BTreeSet<String> {
            let names = text.split("function ").skip(1).filter_map(|rest| rest.split([' ', '(']).next());
            names.map(str::to_owned).collect()
        };
        for name in names(&code) {
            assert!(template.matches(&name).count() > 1, "nothing calls {name}");
        }
        // Whatever is called is ours, or one of these.
        let known: BTreeSet<String> =
            KNOWN.iter().map(|name| (*name).to_owned()).chain(names(&code)).collect();
        let parts = code.split(|char: char| !(char.is_ascii_alphanumeric() || char == '-'));
        for call in parts.filter(|part| {
            let (verb, noun) = part.split_once('-').unwrap_or_default();
            verb.starts_with(char::is_uppercase) && noun.starts_with(char::is_uppercase)
        }) {
            assert!(known.contains(call), "what is {call}?");
        }
    }
}

const KNOWN: [&str; 35] = [
    "Add-LocalGroupMember",
    "Add-Type",
    "ConvertTo-SecureString",
    "Expand-Archive",
    "Get-Content",
    "Get-Date",
    "Get-FileHash",
    "Get-Item",
    "Get-LocalUser",
    "Get-Process",
    "Get-ScheduledTask",
    "Import-Certificate",
    "Invoke-WebRequest",
    "Join-Path",
    "Move-Item",
    "New-Item",
    "New-LocalUser",
    "New-Object",
    "New-ScheduledTaskAction",
    "New-ScheduledTaskSettingsSet",
    "Out-Host",
    "Out-Null",
    "Register-ScheduledTask",
    "Remove-Item",
    "Select-String",
    "Set-LocalUser",
    "Set-Location",
    "Start-Process",
    "Start-ScheduledTask",
    "Start-Sleep",
    "Stop-Computer",
    "Stop-ScheduledTask",
    "Test-Path",
    "Where-Object",
    "Write-Output",
];

#[test]
fn ours_use_every_placeholder() {
    for script in [LINUX, WINDOWS] {
        for name in super::super::placeholders() {
            assert!(script.contains(&format!("{{{{{name}}}}}")), "{name}");
        }
    }
    assert!(LINUX_FETCH.contains("{{ca}}") && WINDOWS_FETCH.contains("{{ca}}"));
}
