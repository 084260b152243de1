//! From what a person names (a name, a port, a cgroup) to processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{describe, process, python};
use crate::error::{Error, Result};
use crate::event;
use crate::units;

/// The Python processes of a machine.
#[derive(Clone, Debug, Default)]
pub struct PythonProcesses {
    /// Those that may be looked into, by pid.
    pub found: Vec<event::Process>,
    /// How many processes may not be looked into, whatever they run.
    pub hidden: usize,
}

/// The Python processes of this machine. Versions are read, not verified by a walk.
pub fn python_processes() -> Result<PythonProcesses> {
    let mut python = PythonProcesses::default();
    let mut others = python::Others::default();
    for tgid in process::all()? {
        if is_hidden(tgid) {
            python.hidden += 1;
            continue;
        }
        // Processes end while they are listed.
        let Ok(Some(version)) = python::version_of(tgid, &mut others) else { continue };
        let Ok(process) = describe(tgid) else { continue };
        python.found.push(event::Process { python: Some(version), ..process });
    }
    Ok(python)
}

/// Python processes by the name of their executable, script, module (`-m`) or thread name. Several are fine when they
/// belong together, as a prefork server and its workers do: the parent comes first. Otherwise: a Usage error that lists them.
pub fn by_name(name: &str) -> Result<Vec<u32>> {
    let own = std::process::id();
    let named: Vec<u32> = process::all()?.into_iter().filter(|tgid| *tgid != own && is_named(*tgid, name)).collect();
    let found = only_python(&named);
    if found.is_empty() {
        let asked = format!("--name {name}");
        refuse_if_blind(named.iter().copied(), &asked)?;
        if named.is_empty() {
            refuse_if_blind(process::all()?.into_iter().filter(|tgid| *tgid != own), &asked)?;
        }
    }
    if found.is_empty() && !named.is_empty() {
        return Err(Error::unsupported(format!("no process named {name} is a Python process"))
            .because(format!("looked at {}", list(&named)))
            .hint("`pylow doctor` lists the Python processes of this machine"));
    }
    if found.is_empty() {
        return Err(Error::target_gone(format!("no process is named {name}"))
            .because("compared with the names of executables, scripts, modules and processes")
            .hint("`pylow doctor` lists the Python processes of this machine"));
    }
    one_tree(&found, &format!("--name {name}"))
}

fn is_named(tgid: u32, name: &str) -> bool {
    let of_process = process::status(tgid).is_ok_and(|status| status.name == name);
    let of_executable =
        process::executable(tgid).is_ok_and(|path| path.is_some_and(|path| process::base_name(&path) == name));
    of_process || of_executable || process::arguments(tgid).is_ok_and(|arguments| names_program(&arguments, name))
}

/// `name` is what `arguments` run: argument 0, the script or the module behind the interpreter's options.
fn names_program(arguments: &[String], name: &str) -> bool {
    let matches = |argument: &String| {
        let base = process::base_name(argument);
        base == name || base.strip_suffix(".py") == Some(name)
    };
    let Some((program, rest)) = arguments.split_first() else { return false };
    if matches(program) {
        return true;
    }
    let mut rest = rest.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-m" => return rest.next().is_some_and(|module| module == name),
            "-c" => return false,
            // The interpreter's options with an argument of their own.
            "-W" | "-X" | "--check-hash-based-pycs" => _ = rest.next(),
            option if option.starts_with('-') => {}
            _ => return matches(argument),
        }
    }
    false
}

/// Python processes that listen on a TCP port, in any network namespace. All workers that share the socket are returned.
pub fn by_port(port: u16) -> Result<Vec<u32>> {
    let mut namespaces: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for tgid in process::all()? {
        if let Ok(namespace) = process::namespace(tgid, "net") {
            namespaces.entry(namespace).or_default().push(tgid);
        }
    }
    let mut listening = Vec::new();
    for members in namespaces.values() {
        let inodes = members.iter().find_map(|tgid| listening_inodes(*tgid, port)).unwrap_or_default();
        if !inodes.is_empty() {
            listening.extend(members.iter().filter(|tgid| holds_socket(**tgid, &inodes)));
        }
    }
    if listening.is_empty() {
        refuse_if_blind(process::all()?.into_iter(), &format!("--port {port}"))?;
        return Err(Error::target_gone(format!("nothing listens on TCP port {port}"))
            .because("looked at every network namespace of this machine")
            .hint(format!("`ss -ltnp 'sport = :{port}'` shows what the kernel knows")));
    }
    let found = only_python(&listening);
    if found.is_empty() {
        return Err(Error::unsupported(format!("port {port} is not a Python process's"))
            .because(format!("it is listened on by {}", list(&listening)))
            .hint("behind a proxy, name the port of the Python service itself"));
    }
    one_tree(&found, &format!("--port {port}"))
}

/// Inodes of the sockets that listen on `port` in the network namespace of `tgid`; None when it is gone.
fn listening_inodes(tgid: u32, port: u16) -> Option<BTreeSet<u64>> {
    let v4 = fs::read_to_string(format!("/proc/{tgid}/net/tcp")).ok()?;
    // A kernel without IPv6 has no such file.
    let v6 = fs::read_to_string(format!("/proc/{tgid}/net/tcp6")).unwrap_or_default();
    Some(v4.lines().chain(v6.lines()).filter_map(|line| listening_inode(line, port)).collect())
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`; 0A is TCP_LISTEN.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    (state == "0A" && u16::from_str_radix(local, 16) == Ok(port)).then(|| inode.parse().ok())?
}

fn holds_socket(tgid: u32, inodes: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{tgid}/fd")) else { return false };
    descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| {
        let link = link.to_string_lossy();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode| inodes.contains(&inode))
    })
}

/// Python processes of a control group and those below it: a path (`/system.slice/shop.service`, with or without
/// `/sys/fs/cgroup`) or one part of it (`shop.service`, a container's id).
pub fn by_cgroup(group: &str) -> Result<Vec<u32>> {
    let wanted = group.strip_prefix("/sys/fs/cgroup").unwrap_or(group).trim_end_matches('/');
    let mut members = members_below(&Path::new("/sys/fs/cgroup").join(wanted.trim_start_matches('/')));
    if members.is_empty() {
        members = process::all()?;
        members.retain(|tgid| process::cgroup(*tgid).is_ok_and(|path| is_in_group(&path, wanted)));
    }
    if members.is_empty() {
        return Err(Error::target_gone(format!("no process is in the cgroup {group}"))
            .hint("`systemd-cgls` lists cgroups; /proc/PID/cgroup says where a process is"));
    }
    let found = only_python(&members);
    if found.is_empty() {
        return Err(Error::unsupported(format!("the cgroup {group} has no Python process"))
            .because(format!("looked at {}", list(&members))));
    }
    Ok(parents_first(&found).0)
}

/// Members of the cgroup whose directory this is, and of those below it; of any controller's tree. Empty when there is
/// no such directory.
fn members_below(directory: &Path) -> Vec<u32> {
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut members: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members.extend(members_below(&entry.path()));
        }
    }
    members.sort_unstable();
    members.dedup();
    members
}

/// What may not be looked into may be what is looked for: then "there is none" would be false.
fn refuse_if_blind(candidates: impl Iterator<Item = u32>, asked: &str) -> Result<()> {
    let hidden: Vec<u32> = candidates.filter(|tgid| is_hidden(*tgid)).collect();
    if hidden.is_empty() {
        return Ok(());
    }
    Err(Error::not_permitted(format!("not permitted to look into what {asked} may be"))
        .because(format!("{} of the processes may not be looked into", units::count(hidden.len() as u64)))
        .because(list(&hidden))
        .hint(process::permission_hint()))
}

/// A process, no thread of the kernel, that may not be looked into.
fn is_hidden(tgid: u32) -> bool {
    let refused = fs::read_dir(format!("/proc/{tgid}/fd")).err();
    refused.is_some_and(|err| err.kind() == std::io::ErrorKind::PermissionDenied)
        && process::arguments(tgid).is_ok_and(|arguments| !arguments.is_empty())
}

fn is_in_group(path: &str, wanted: &str) -> bool {
    if wanted.contains('/') {
        return path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    !wanted.is_empty() && path.split('/').any(|part| part == wanted)
}

fn only_python(tgids: &[u32]) -> Vec<u32> {
    let mut others = python::Others::default();
    tgids.iter().copied().filter(|tgid| matches!(python::version_of(*tgid, &mut others), Ok(Some(_)))).collect()
}

/// The processes, parents first, if all come from one of them or are children of the same process.
fn one_tree(tgids: &[u32], asked: &str) -> Result<Vec<u32>> {
    let (ordered, roots) = parents_first(tgids);
    let parents: BTreeSet<u32> = roots.iter().filter_map(|root| Some(process::status(*root).ok()?.parent)).collect();
    // Workers of one supervisor belong together; what a shell or init started does not.
    let siblings = parents.len() == 1 && parents.iter().all(|parent| only_python(&[*parent]).len() == 1);
    if roots.len() <= 1 || siblings {
        return Ok(ordered);
    }
    let candidates = roots.iter().map(|tgid| one_line(*tgid));
    Err(candidates
        .fold(Error::usage(format!("{asked} fits {} unrelated processes", roots.len())), Error::because)
        .hint("give the pid of the one you mean"))
}

/// Ordered so that parents precede their children, and those without a parent among them.
fn parents_first(tgids: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let parent = |tgid: u32| process::status(tgid).map_or(0, |status| status.parent);
    let mut depth: BTreeMap<u32, usize> = BTreeMap::new();
    for tgid in tgids {
        let mut ancestors = 0;
        let mut current = parent(*tgid);
        // Pids are finite, but the table of parents may change under the walk.
        for _ in 0..64 {
            if current <= 1 {
                break;
            }
            ancestors += usize::from(tgids.contains(&current));
            current = parent(current);
        }
        depth.insert(*tgid, ancestors);
    }
    let mut ordered = tgids.to_vec();
    ordered.sort_by_key(|tgid| (depth[tgid], *tgid));
    let roots = ordered.iter().copied().filter(|tgid| depth[tgid] == 0).collect();
    (ordered, roots)
}

fn one_line(tgid: u32) -> String {
    match describe(tgid) {
        Ok(process) => format!("{tgid}  {}", process.command.replace(char::is_control, " ")),
        Err(_) => format!("{tgid}  (gone)"),
    }
}

/// `nginx (977), nginx (978) and 3 more`
fn list(tgids: &[u32]) -> String {
    let name = |tgid: &u32| {
        let name = describe(*tgid).map(|process| process.executable);
        let name = name.or_else(|_| process::status(*tgid).map(|status| status.name));
        let name = name.unwrap_or_else(|_| "gone".into());
        format!("{name} ({tgid})")
    };
    let shown: Vec<String> = tgids.iter().take(5).map(name).collect();
    let hidden = tgids.len() - shown.len();
    let more = if hidden > 0 { format!(" and {hidden} more") } else { String::new() };
    shown.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_a_command_line_runs() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (command, name) in [
            ("/usr/bin/python3 -u /srv/shop.py --port 80", "shop.py"),
            ("/usr/bin/python3 -u /srv/shop.py --port 80", "shop"),
            ("python3 -X dev -m uvicorn app:app", "uvicorn"),
            ("/usr/bin/python3 /usr/bin/gunicorn -w 4 app", "gunicorn"),
            ("uwsgi --ini x", "uwsgi"),
        ] {
            assert!(names_program(&line(command), name), "{command} runs {name}");
        }
        for (command, name) in
            [("python3 a.py b.py", "b.py"), ("python3 -c shop", "shop"), ("python3 -m http.server", "http")]
        {
            assert!(!names_program(&line(command), name), "{command} does not run {name}");
        }
    }

    #[test]
    fn groups_and_what_is_below_them() {
        assert!(is_in_group("/system.slice/shop.service/worker", "/system.slice/shop.service"));
        assert!(is_in_group("/system.slice/shop.service", "shop.service"));
        assert!(!is_in_group("/system.slice/shop.service2", "/system.slice/shop.service"));
        assert!(!is_in_group("/system.slice", ""));
    }

    #[test]
    fn a_line_of_net_tcp() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0 0 10 0";
        assert_eq!(listening_inode(line, 8080), Some(31337));
        assert_eq!(listening_inode(line, 8081), None);
        assert_eq!(listening_inode(&line.replace(" 0A ", " 01 "), 8080), None);
    }

    #[test]
    fn nobody() {
        assert_eq!(by_name("no-such-program-anywhere").unwrap_err().kind(), ErrorKind::TargetGone);
        assert_eq!(by_cgroup("/no/such/group").unwrap_err().kind(), ErrorKind::TargetGone);
    }
}
