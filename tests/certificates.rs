//! `isonomy cert` as its users see it: the list, renewal, the files of administrators and of
//! replicas that are to join, and what is refused.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[path = "common/ports.rs"]
mod ports;

const PATIENCE: Duration = Duration::from_secs(60);

/// The files of a cluster of three, made by `init`. Nothing of it runs.
struct Files {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
}

impl Files {
    fn new() -> Files {
        Files::at("127.0.0.1:7400")
    }

    fn at(base: &str) -> Files {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = temporary.path().join("cluster");
        let files = Files { _temporary: temporary, dir };
        let made = files.run(&["init", files.name(), "--cluster", "blue", "--listen-base", base]);
        assert!(made.status.success(), "{made:?}");
        files
    }

    fn name(&self) -> &str {
        self.dir.to_str().expect("UTF-8")
    }

    /// A directory beside it: another machine, say.
    fn elsewhere(&self, name: &str) -> PathBuf {
        self.dir.with_file_name(name)
    }

    /// Runs a command that has to end soon.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut isonomy = Command::new(env!("CARGO_BIN_EXE_isonomy"));
        isonomy.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut isonomy = isonomy.spawn().expect("isonomy runs");
        let start = Instant::now();
        while isonomy.try_wait().expect("a process of ours").is_none() {
            if start.elapsed() > PATIENCE {
                let _ = isonomy.kill();
                panic!("it does not end: {arguments:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        isonomy.wait_with_output().expect("it has ended")
    }

    #[track_caller]
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], words: &[&str]) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word:?} in {said}");
        }
    }

    fn text(&self, name: &str) -> String {
        text(&self.dir.join(name))
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn name(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[cfg(unix)]
fn is_secret(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).expect("a file").permissions().mode();
    mode & 0o777 == 0o600
}

#[cfg(not(unix))]
fn is_secret(_: &Path) -> bool {
    true
}

/// The names in a certificate.
fn names(path: &Path) -> Vec<String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use x509_cert::der::Decode;
    use x509_cert::ext::pkix::SubjectAltName;
    use x509_cert::ext::pkix::name::GeneralName;
    let der = CertificateDer::from_pem_file(path).expect("a certificate");
    let certificate = x509_cert::Certificate::from_der(&der).expect("a certificate");
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let (_, SubjectAltName(names)) = found.expect("names").expect("names");
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => name.to_string(),
        other => panic!("{other:?}"),
    };
    names.iter().map(name).collect()
}

const ADMIN: [&str; 2] = ["admin.client.blue", "admin.admin.blue"];

#[test]
fn init_makes_an_administrator_that_is_renewed_as_one() {
    let files = Files::new();
    let path = files.dir.join("admin.pem");
    assert_eq!(names(&path), ADMIN);
    assert_eq!(names(&files.dir.join("client.pem")), ["cli.client.blue"]);
    assert!(is_secret(&files.dir.join("admin.key")));
    let listed = files.told(&["cert", "list", files.name()]);
    assert!(listed.contains("\nadmin.pem "), "{listed}");
    let before = text(&path);
    files.told(&["cert", "renew", files.name()]);
    assert_ne!(text(&path), before);
    assert_eq!(names(&path), ADMIN);
    assert_eq!(names(&files.dir.join("client.pem")), ["cli.client.blue"]);
}

#[test]
fn a_cluster_without_an_administrator_gets_one() {
    let files = Files::new();
    let settings = files.text("admin.toml");
    for file in ["admin.toml", "admin.pem", "admin.key"] {
        fs::remove_file(files.dir.join(file)).expect("what init wrote");
    }
    let command = format!("isonomy cert issue {} admin --admin", files.name());
    files.refused(&["member", "remove", "2", "--cluster", files.name()], &[&command]);
    files.refused(&["cert", "issue", files.name(), "admin"], &["add --admin"]);
    files.refused(&["cert", "issue", files.name(), "cli", "--admin"], &["is not free"]);
    let told = files.told(&["cert", "issue", files.name(), "admin", "--admin"]);
    assert!(told.contains("admin.toml names it"), "{told}");
    assert_eq!(files.text("admin.toml"), settings);
    assert_eq!(names(&files.dir.join("admin.pem")), ADMIN);
    // The next one has to be named in a file of its own.
    let told = files.told(&["cert", "issue", files.name(), "ops", "--admin"]);
    assert!(told.contains("copy of admin.toml") && told.contains("client = \"ops\""), "{told}");
    assert_eq!(names(&files.dir.join("ops.pem")), ["ops.client.blue", "ops.admin.blue"]);
    assert_eq!(files.text("admin.toml"), settings);
}

#[test]
fn a_replica_that_is_to_join_gets_its_files() {
    let files = Files::new();
    let dir = files.name();
    let three = files.text("3.toml");
    // What all replicas have to share is taken over.
    let shared = three
        .replace("protocol = \"epaxos\"", "protocol = \"multi-paxos\"\nsession_idle_seconds = 77");
    fs::write(files.dir.join("1.toml"), shared.replace("replica = 3", "replica = 1")).unwrap();
    let told = files.told(&["cert", "replica", dir, "4@127.0.0.1:7444"]);
    for words in [
        format!("isonomy serve {dir}/4.toml"),
        format!("isonomy member add 4@127.0.0.1:7444 --cluster {dir}"),
        format!("isonomy member replace OLD 4@127.0.0.1:7444 --cluster {dir}"),
    ] {
        assert!(told.contains(&words), "{words} in {told}");
    }
    let four = files.text("4.toml");
    let list = "[replicas]\n1 = \"127.0.0.1:7401\"\n2 = \"127.0.0.1:7402\"\n\
                3 = \"127.0.0.1:7403\"\n4 = \"127.0.0.1:7444\"\n";
    assert!(four.ends_with(list), "{four}");
    // Apart from these lines it is what `init` writes.
    let expected = three
        .replace("# join = false", "join = true")
        .replace("protocol = \"epaxos\"", "protocol = \"multi-paxos\"")
        .replace("\"3.", "\"4.")
        .replace("Replica 3", "Replica 4")
        .replace("serve 3", "serve 4")
        .replace("replica = 3", "replica = 4")
        .replace("[::]:7403", "[::]:7444");
    let is_new = |line: &&str| !expected.lines().any(|it| it == *line);
    let new: Vec<&str> = four.lines().filter(is_new).collect();
    let [comment, setting, entry] = new[..] else { panic!("{new:?}") };
    assert!(comment.starts_with("# How long a session"), "{comment}");
    assert_eq!((setting, entry), ("session_idle_seconds = 77", "4 = \"127.0.0.1:7444\""));
    assert_eq!(names(&files.dir.join("4.pem")), ["r4.blue"]);
    assert!(is_secret(&files.dir.join("4.key")));

    // Numbers go up only, and are never used twice.
    for number in ["1", "3", "4"] {
        let place = format!("{number}@127.0.0.1:7555");
        files.refused(&["cert", "replica", dir, &place], &["is not free", "has replica 4"]);
    }
    fs::write(files.dir.join("5.csr"), "").unwrap();
    files.refused(&["cert", "replica", dir, "5@127.0.0.1:7555"], &["5.csr exists already"]);
    files.refused(&["cert", "replica", dir, "6@0.0.0.0:7555"], &["every address of a machine"]);
    assert!(!files.dir.join("6.key").exists(), "nothing is made before all is checked");
    // A replica at the address of another is to replace that one. Its number may be above 63.
    files.told(&["cert", "replica", dir, "700@127.0.0.1:7403"]);
    let text = files.text("700.toml");
    assert!(text.ends_with("2 = \"127.0.0.1:7402\"\n700 = \"127.0.0.1:7403\"\n"), "{text}");
    assert_eq!(names(&files.dir.join("700.pem")), ["r700.blue"]);
    let listed = files.told(&["cert", "list", dir]);
    assert!(listed.contains("\n4.pem ") && listed.contains("\n700.pem "), "{listed}");
    files.told(&["cert", "renew", dir, "--replica", "700"]);
}

#[test]
fn a_replica_in_memory_gets_no_data_directory() {
    let files = Files::new();
    for number in 1..=3 {
        fs::remove_file(files.dir.join(format!("{number}.toml"))).expect("what init wrote");
    }
    let dir = files.name();
    files.refused(&["cert", "replica", dir, "4@127.0.0.1:7444"], &["name one with --like"]);
    let other = Files::new();
    let like = other.dir.join("2.toml");
    let memory = other.text("2.toml").replace("\"fsync\"", "\"memory\"");
    fs::write(&like, memory.replace("data_dir = ", "# data_dir = ")).unwrap();
    files.told(&["cert", "replica", dir, "4@127.0.0.1:7444", "--like", name(&like)]);
    let text = files.text("4.toml");
    assert!(text.contains("\n# data_dir = \"4.data\"\n"), "{text}");
    assert!(text.contains("\ndurability = \"memory\"\n"), "{text}");
    let green = other.text("2.toml").replace("cluster = \"blue\"", "cluster = \"green\"");
    fs::write(&like, green).unwrap();
    let arguments = ["cert", "replica", dir, "5@127.0.0.1:7555", "--like", name(&like)];
    files.refused(&arguments, &["2.toml is of the cluster green"]);
}

#[test]
fn a_replicas_key_never_leaves_its_machine() {
    let files = Files::new();
    let dir = files.name();
    let machine = files.elsewhere("machine");
    let at = name(&machine);
    let asked = files.told(&["cert", "request", at, "4", "--cluster", "blue"]);
    assert!(is_secret(&machine.join("4.key")));
    let arguments = ["cert", "request", at, "4", "--cluster", "blue"];
    files.refused(&arguments, &["4.csr exists already"]);
    // The request is brought to where the authority's key is.
    let mail = files.elsewhere("mail");
    fs::create_dir(&mail).unwrap();
    let request = mail.join("4.csr");
    fs::copy(machine.join("4.csr"), &request).unwrap();
    let sign = ["cert", "sign", dir, name(&request), "--address", "127.0.0.1:7444"];
    let signed = files.told(&sign);
    assert!(signed.contains("for replica 4 of blue, until 20"), "{signed}");
    let digest = |text: &str| text.split("SHA-256 ").nth(1).expect(text)[..64].to_owned();
    assert_eq!(digest(&asked), digest(&signed), "people compare them");
    assert_eq!(names(&mail.join("4.pem")), ["r4.blue"]);
    assert_eq!(text(&mail.join("ca.pem")), files.text("ca.pem"));
    let settings = text(&mail.join("4.toml"));
    assert!(settings.contains("\njoin = true\n"), "{settings}");
    assert!(!files.dir.join("4.key").exists() && !mail.join("4.key").exists());
    // What is brought back belongs together.
    for file in ["4.pem", "4.toml", "ca.pem"] {
        fs::copy(mail.join(file), machine.join(file)).unwrap();
    }
    isonomy::network::Credentials::from_pem_files(
        &machine.join("ca.pem"),
        &machine.join("4.pem"),
        &machine.join("4.key"),
    )
    .expect("they can be used");

    // The number is used now, wherever the next request comes from.
    let other = files.elsewhere("other");
    files.told(&["cert", "request", name(&other), "4", "--cluster", "blue"]);
    let request = other.join("4.csr");
    let again = ["cert", "sign", dir, name(&request)];
    files.refused(&again, &["--again", "4 is not free"]);
    let before = files.text("4.pem");
    files.told(&[&again[..], &["--again"]].concat());
    assert_ne!(files.text("4.pem"), before);
    assert_eq!(files.text("4.pem"), text(&other.join("4.pem")));
    files.told(&["cert", "renew", dir, "--replica", "4"]);
}

#[test]
fn a_request_that_is_not_a_replicas_is_not_signed() {
    let files = Files::new();
    let machine = files.elsewhere("machine");
    let at = name(&machine);
    files.told(&["cert", "request", at, "4", "--cluster", "green"]);
    let request = machine.join("4.csr");
    let sign = ["cert", "sign", files.name(), name(&request)];
    files.refused(&sign, &["4.csr", "the request is for r4.green", "a replica of blue"]);
    files.refused(&["cert", "request", at, "0"], &["whole number from 1"]);
    files.refused(&["cert", "request", at, "5", "--cluster", "Green"], &["lower-case"]);
    assert!(!machine.join("5.key").exists());
    fs::write(&request, files.text("1.pem")).unwrap();
    files.refused(&sign, &["no usable request"]);
    files.refused(&["cert", "sign", files.name(), "no/such.csr"], &["cannot read no/such.csr"]);
    assert!(!machine.join("4.pem").exists() && !files.dir.join("4.pem").exists());
    fs::remove_file(files.dir.join("ca.key")).unwrap();
    files.refused(&sign, &["ca.key"]);
}

/// Replaces a replica's certificate by one of the same authority with this lifetime and these uses.
fn reissue(dir: &Path, days: i64, uses: &[rcgen::ExtendedKeyUsagePurpose]) {
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect(name);
    let key = rcgen::KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("an authority");
    let own = rcgen::KeyPair::from_pem(&read("1.key")).expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["r1.blue".to_owned()]).expect("a name");
    params.extended_key_usages = uses.to_vec();
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(90);
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(24 * days + 1);
    let certificate = params.signed_by(&own, &issuer).expect("a certificate");
    fs::write(dir.join("1.pem"), certificate.pem()).expect("written");
}

#[test]
fn certificates_are_listed_warned_of_and_renewed() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let files = Files::at(&format!("127.0.0.1:{}", ports::free_base(3)));
    let (path, name) = (&files.dir, files.name());
    let listed = |code| {
        let output = files.run(&["cert", "list", name]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let all = listed(0);
    let days = |all: &str, file: &str| {
        let line = all.lines().find(|line| line.starts_with(file)).expect(file);
        line.split_whitespace().nth(2).and_then(|days| days.parse::<i64>().ok()).expect("days")
    };
    // The certificates are issued in different seconds, and the listing shows whole days.
    let (one, two, client) = (days(&all, "1.pem"), days(&all, "2.pem"), days(&all, "client.pem"));
    assert!((6..=8).contains(&(one - two)) && (one - client).abs() <= 1, "{all}");
    let others = fs::read(path.join("2.pem")).expect("a file");

    reissue(path, 10, &[ServerAuth]);
    let one_toml = path.join("1.toml");
    let why = "1.pem cannot be used as r1.blue: it is not made for clients";
    files.refused(&["serve", self::name(&one_toml), "--log", "off"], &[why]);
    reissue(path, 10, &[ServerAuth, ClientAuth]);
    assert!(listed(1).contains("10 days left"));
    // It starts, warns at once, and runs.
    let log = fs::File::create(path.join("log")).expect("a file");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_isonomy"));
    let serve = serve.arg("serve").arg(&one_toml).stdout(Stdio::null()).stderr(log);
    let mut serve = serve.spawn().expect("isonomy runs");
    let start = Instant::now();
    let said = || fs::read_to_string(path.join("log")).expect("the log");
    while !said().contains("1.pem expires in 10 days") {
        assert!(start.elapsed() < PATIENCE, "no warning: {}", said());
        std::thread::sleep(Duration::from_millis(10));
    }
    serve.kill().and_then(|()| serve.wait()).expect("a process of ours");

    let key = fs::read(path.join("1.key")).expect("a file");
    let told = files.told(&["cert", "renew", name, "--replica", "1"]);
    assert!(told.contains("1.pem: until 20"), "{told}");
    let renewed = days(&listed(0), "1.pem");
    assert!((renewed - one).abs() <= 1, "as long as a new one: {renewed}");
    assert_eq!(fs::read(path.join("1.key")).expect("a file"), key);
    assert_eq!(fs::read(path.join("2.pem")).expect("a file"), others);
    files.told(&["cert", "renew", name]);
    assert_ne!(fs::read(path.join("2.pem")).expect("a file"), others);
    files.refused(&["cert", "renew", name, "--replica", "4"], &["no such replica"]);
    fs::remove_file(path.join("ca.key")).expect("a file");
    files.refused(&["cert", "renew", name], &["ca.key"]);
}
