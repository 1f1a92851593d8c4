//! Ways past `schengate exec` that are not of the network: who the command says that it is, sockets of the
//! host, its terminal, its reports.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use crate::exec::{Scene, row, stdout};
use crate::lab::{PERMITTED, REFUSED, has, said};

/// A group of the host itself, and rules by `from`, each of which would let the command pass where its
/// source address were believed.
const BY_CLIENT: &str = "
[[group]]
name = \"loopback\"
clients = [\"127.0.0.0/8\", \"::1/128\", \"192.0.0.8/32\"]
permit = [\"US\"]

[[rule]]
name = \"by-address\"
from = [\"10.9.0.0/16\", \"2001:db8:77::/48\"]
to = [\"203.0.113.7/32\", \"2001:db8:bad::7/128\"]
action = \"allow\"

[[rule]]
name = \"who-it-is\"
from = [\"192.0.0.2/32\", \"fd73:6368:656e::2/128\"]
to = [\"198.51.100.7/32\", \"2001:db8:2::7/128\"]
action = \"block\"
";

#[test]
fn e14_whichever_source_address_it_takes_the_command_is_the_one_client() {
    let Some(mut scene) = Scene::start("e14", BY_CLIENT) else { return };
    if !has("python3") {
        return;
    }
    // TCP, UDP and a question about a name, from addresses for which the policy has more than for others.
    let script = "import socket, struct, sys
r4, r6, p4, p6 = sys.argv[1:5]
name = b''.join(bytes([len(l)]) + l.encode() for l in 'refused.example'.split('.')) + b'\\0\\0\\1\\0\\1'
query = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + name
def heard(family, kind, source, to, say):
    s = socket.socket(family, kind); s.settimeout(2)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    s.bind((source, 0))
    try: s.connect(to); s.send(say); return s.recv(200)
    except OSError: return b''
for family, to, own, sources in [(socket.AF_INET, r4, p4, ['127.0.0.5', '10.9.0.1', '192.0.0.8']), (socket.AF_INET6, r6, p6, ['::1', '2001:db8:77::1'])]:
    for source in sources:
        for at in [to, own]:
            print(source, 'tcp', heard(family, socket.SOCK_STREAM, source, (at, 80), b'GET / HTTP/1.0\\r\\n\\r\\n')[:15])
        print(source, 'udp', heard(family, socket.SOCK_DGRAM, source, (to, 443), b'are you there'))
        for kind, say, at in [(socket.SOCK_DGRAM, query, 6), (socket.SOCK_STREAM, struct.pack('>H', len(query)) + query, 8)]:
            answer = heard(family, kind, source, (to, 53), say)[at:at + 2]
            print(source, 'name', struct.unpack('>H', answer)[0] if answer else 0)";
    let command = ["python3", "-c", script, REFUSED[0], REFUSED[1], PERMITTED[0], PERMITTED[1]];
    let record = scene.path("record");
    let (output, summary) = scene.run(&["--record", record.to_str().unwrap()], &command);
    let text = stdout(&output);
    assert!(output.status.success(), "{}", said(&output));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 5 * 5, "{text}");
    for line in lines {
        let (_, heard) = line.split_once(' ').unwrap();
        // TCP answers find the way back to addresses of the host itself alone.
        let none = ["tcp b''", "tcp b'HTTP/1.1 451 Un'", "udp b''", "name 0"];
        assert!(none.contains(&heard), "{line}: {text}");
    }
    for ip in REFUSED {
        assert_eq!(scene.world.arrived(ip), (0, 0));
        assert_eq!(row(&summary, "refused", ip)["reason"], "outside");
    }
    // The rules that do hold are those for the one client.
    for ip in PERMITTED {
        assert_eq!(row(&summary, "refused", ip)["rule"], "who-it-is");
        assert_eq!(scene.world.arrived(ip), (0, 0));
    }
    // And nobody else stands in the record.
    let record = fs::read_to_string(record).unwrap();
    let all: Vec<serde_json::Value> =
        record.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let clients: Vec<_> = all.iter().filter_map(|line| line["client"].as_str()).collect();
    assert!(clients.len() >= 10, "{record}");
    for client in clients {
        let ip: std::net::SocketAddr = client.parse().unwrap();
        assert!(["192.0.0.2", "fd73:6368:656e::2"].contains(&&*ip.ip().to_string()), "{client}");
    }
    assert_eq!(summary["countries"], json!([]), "{summary:#}");
}

/// Listens on sockets of the host: renamed since, bound by a relative path, of names that are no text, for
/// packets and for datagrams; and on one that is made once it is told to. Says of each who came.
const LISTENERS: &str = r#"
import os, socket, sys, select
d = os.fsencode(sys.argv[1])
os.chdir(d)
def listen(name, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind); s.bind(name); os.chmod(name, 0o777)
    if kind != socket.SOCK_DGRAM: s.listen(50)
    return s
all = [listen(b'before'), listen(b'relative'), listen(d + b'/not-\xff-utf8'), listen(d + b'/new\nline'), listen(d + b'/packets', socket.SOCK_SEQPACKET), listen(d + b'/datagrams', socket.SOCK_DGRAM)]
os.rename(b'before', b'renamed'); os.link(b'renamed', b'linked'); os.symlink(b'renamed', b'symbolic')
print('ready', flush=True)
sys.stdin.readline()
all.append(listen(d + b'/later'))
print('later', flush=True)
while True:
    for s in select.select(all, [], [])[0]:
        if s.type == socket.SOCK_DGRAM: print('came', s.recv(99), flush=True)
        else: s.accept(); print('came', s.getsockname(), flush=True)
"#;

/// Connects to each of them in every way, and by arguments that become others while they are looked at.
const CALLERS: &str = r#"
import ctypes, os, socket, sys, threading
d = os.fsencode(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
print('started', flush=True); sys.stdin.readline()
os.chdir(d)
names = [b'renamed', b'linked', b'symbolic', b'relative', d + b'/renamed', d + b'/not-\xff-utf8', d + b'/new\nline', b'packets', b'later', b'./later', b'/proc/self/cwd/later', b'/proc/self/root' + d + b'/later', b'/proc/%d/cwd/later' % os.getpid()]
fd = os.open(d, os.O_RDONLY)
names += [b'/proc/self/fd/%d/later' % fd, b'/dev/fd/%d/later' % fd]
os.makedirs(b'own', exist_ok=True)
for move in [os.link, os.rename]:
    try: move(b'later', b'own/moved'); names.append(b'own/moved'); break
    except OSError as e: print('not moved', e)
for name in names:
    for kind in [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]:
        for waits in [True, False]:
            s = socket.socket(socket.AF_UNIX, kind); s.setblocking(waits)
            try: s.connect(name); print('OPEN', name)
            except OSError as e: print('shut', name, e.errno)
for make in [lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_UNIX, socket.SOCK_RAW), lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]:
    try: make(); print('OPEN datagrams')
    except OSError as e: print('shut datagrams', e.errno)
a, b = socket.socketpair()
try: a.sendto(b'past', b'later'); print('OPEN sendto')
except OSError as e: print('shut sendto', e.errno)
# Other arguments in the place of those that are looked at: the address, and the socket.
mine = socket.socket(socket.AF_UNIX); mine.bind(b'own/mine'); mine.listen(5000); mine.setblocking(False)
def address(name): return b'\1\0' + name.ljust(20, b'\0')
room = ctypes.create_string_buffer(address(b'own/mine'), 22)
stop = False
def flip():
    one, other = address(b'own/mine'), address(b'later')
    while not stop: room[:22] = other; room[:22] = one
flips = [threading.Thread(target=flip)]
for f in flips: f.start()
own = 0
for _ in range(400):
    s = socket.socket(socket.AF_UNIX)
    if libc.connect(s.fileno(), room, 22) == 0:
        own += 1
        try:
            while True: mine.accept()
        except BlockingIOError: pass
stop = True
for f in flips: f.join()
print('own', own > 0)
"#;

/// A directory that anybody may write to.
fn open_directory(scene: &Scene, name: &str) -> PathBuf {
    let path = scene.path(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    path
}

fn sockets_of_the_host(scene: &Scene, wrap: &[&str], space: &str) {
    let directory = open_directory(scene, "sockets");
    let script = scene.lab.write("listeners.py", LISTENERS);
    let of = match space {
        "world" => &scene.lab.world,
        _ => &scene.lab.gateway,
    };
    let mut host = of
        .command("python3")
        .arg(&script)
        .arg(&directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said_by_host = BufReader::new(host.stdout.take().unwrap());
    let mut line = String::new();
    said_by_host.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let script = scene.lab.write("callers.py", CALLERS);
    let mut command = scene.lab.gateway.command("env");
    command.args(wrap).arg(&scene.program).arg("exec").arg("--config").arg(&scene.policy);
    command.args(["-q", "--", "/usr/bin/python3"]).arg(&script).arg(&directory);
    let mut command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said_inside = BufReader::new(command.stdout.take().unwrap());
    line.clear();
    said_inside.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    // The command runs, and now the host makes another one.
    host.stdin.take().unwrap().write_all(b"\n").unwrap();
    line.clear();
    said_by_host.read_line(&mut line).unwrap();
    assert_eq!(line, "later\n");
    command.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut text = String::new();
    said_inside.read_to_string(&mut text).unwrap();
    assert!(command.wait().unwrap().success(), "{text}");
    host.kill().unwrap();
    host.wait().unwrap();
    let mut came = String::new();
    said_by_host.read_to_string(&mut came).unwrap();
    assert_eq!(came, "", "{text}");
    assert!(!text.contains("OPEN"), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("shut ")).count() > 60, "{text}");
    // Where its own stood in the same place it was reached.
    assert!(text.contains("own True"), "{text}");
}

#[test]
fn e15_no_socket_of_the_host_is_reached_whatever_its_name_is_and_whenever_it_was_made() {
    let Some(scene) = Scene::start("e15", "") else { return };
    sockets_of_the_host(&scene, &[], "gateway");
}

#[test]
fn e16_nor_by_an_ordinary_user_and_nor_one_of_another_network_namespace() {
    let Some(scene) = Scene::start("e16", "") else { return };
    if has("setpriv") {
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        sockets_of_the_host(&scene, &user, "world");
    }
}

#[test]
fn e17_sockets_of_its_own_serve_the_command_as_ever() {
    let Some(scene) = Scene::start("e17", "") else { return };
    let script = scene.lab.write(
        "own.py",
        r#"
import ctypes, os, socket, sys, threading, subprocess, time
libc = ctypes.CDLL(None)
d = sys.argv[1]
os.makedirs(d, exist_ok=True); os.chdir(d)
def serve(name, kind):
    s = socket.socket(socket.AF_UNIX, kind); s.bind(name); s.listen(1)
    def run():
        while True:
            c, _ = s.accept(); c.sendall(c.recv(99)); c.close()
    threading.Thread(target=run, daemon=True).start()
def ask(name, kind, waits=True):
    s = socket.socket(socket.AF_UNIX, kind); s.settimeout(None if waits else 5); s.connect(name); s.sendall(b'x'); assert s.recv(9) == b'x'; s.close()
for i, (name, kind) in enumerate([('rel', socket.SOCK_STREAM), (d + '/abs', socket.SOCK_STREAM), ('seq', socket.SOCK_SEQPACKET), ('\0abstract', socket.SOCK_STREAM)]):
    serve(name, kind); 
    for w in [True, False]: ask(name, kind, w)
os.rename('rel', 'moved'); ask('moved', socket.SOCK_STREAM)
fd = os.open('.', os.O_RDONLY); ask('/proc/self/fd/%d/abs' % fd, socket.SOCK_STREAM)
# of another process, not dumpable
pid = os.fork()
if pid == 0:
    libc.prctl(4, 0, 0, 0, 0); s = socket.socket(socket.AF_UNIX); s.bind('agent'); s.listen(); c, _ = s.accept(); c.sendall(c.recv(9)); os._exit(0)
while not os.path.exists('agent'): time.sleep(.01)
def patiently():
    while True:
        try: return ask('agent', socket.SOCK_STREAM)
        except ConnectionRefusedError: time.sleep(.01)
patiently()
# blocking full backlog
s = socket.socket(socket.AF_UNIX); s.bind('full'); s.listen(0)
a = socket.socket(socket.AF_UNIX); a.connect('full')
done = []
def later():
    b = socket.socket(socket.AF_UNIX); b.connect('full'); done.append(1)
t = threading.Thread(target=later); t.start()
ask('abs', socket.SOCK_STREAM)
s.accept(); s.accept(); t.join(); assert done
try: socket.socket(socket.AF_UNIX).connect('nothing'); print('?')
except FileNotFoundError: print('fine')
"#,
    );
    let directory = scene.path("own");
    let (output, _) =
        scene.run(&[], &["python3", script.to_str().unwrap(), directory.to_str().unwrap()]);
    assert_eq!(stdout(&output), "fine\n", "{}", said(&output));
}

/// Families that a network namespace does not confine, what looks into process 1 or outside, switches of the
/// kernel, and every right in namespaces of its own making: by numbers of calls of x86-64.
const MORE_WAYS: &str = r#"
import array, ctypes, errno, os, resource, signal, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    got = libc.syscall(*a)
    if got < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
def family(number, kind=socket.SOCK_RAW, protocol=0): return lambda: socket.socket(number, kind, protocol)
def opened(path, flags=os.O_RDWR): return lambda: os.open(path, flags)
def nested(what):
    # Every right, in namespaces of its own making: none over those that it is in.
    def way():
        pid = os.fork()
        if pid == 0:
            try:
                user, group = os.getuid(), os.getgid()
                call(272, 0x10000000 | 0x40000000 | 0x20000 | 0x8000000)
                for name, text in [('setgroups', 'deny'), ('uid_map', '0 %d 1' % user), ('gid_map', '0 %d 1' % group)]: open('/proc/self/' + name, 'w').write(text)
                what()
            except OSError as e: os._exit(1)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]): raise OSError(errno.EPERM, 'nested')
    return way
def host_network():
    # Nobody from whom the host's namespace could be had.
    own = os.stat('/proc/self/ns/net').st_ino
    for pid in os.listdir('/proc'):
        if pid.isdigit() and os.stat('/proc/%s/ns/net' % pid).st_ino != own: return
    raise OSError(errno.ESRCH, 'nobody of another network')
def parent_by_descriptor(): os.pidfd_open(os.getppid()); call(438, os.pidfd_open(os.getppid()), 0, 0)
def memory_of_first(): open('/proc/1/mem', 'r+b')
def written_into_first():
    room = ctypes.create_string_buffer(8); words = (ctypes.c_void_p * 2)(ctypes.addressof(room), 8)
    call(311, 1, words, 1, words, 1, 0)
def killed_first():
    os.kill(1, 9); raise OSError(errno.EPERM, 'it lives')
def stopped_first():
    os.kill(1, signal.SIGSTOP); socket.create_connection(('127.0.0.1', 1), 3)
def environment(): open('/proc/1/environ').read()
def listener_of_connects(): call(438, os.pidfd_open(1), 5, 0)
def second_listener():
    class P(ctypes.Structure): _fields_ = [('n', ctypes.c_ushort), ('f', ctypes.c_void_p)]
    code = struct.pack('HBBI', 6, 0, 0, 0x7fff0000); room = ctypes.create_string_buffer(code)
    call(317, 1, 8, ctypes.byref(P(1, ctypes.addressof(room))))
def rights_by_a_pair():
    a, b = socket.socketpair(); a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))])
    raise OSError(errno.EPERM, 'its own alone')
def descriptors_beyond_three():
    for n in range(3, 64):
        try: kind = os.fstat(n).st_mode & 0o170000
        except OSError: continue
        if kind not in (0o100000, 0o010000): return
    raise OSError(errno.EBADF, 'pipes and files')
def cores():
    # A limit of 1 has the kernel start no handler of cores, which would be one of the host.
    if resource.getrlimit(resource.RLIMIT_CORE) != (1, 1): return
    resource.setrlimit(resource.RLIMIT_CORE, (2, 2))
def user_faults(): os.close(call(323, 0)); raise OSError(errno.EPERM, 'of its own memory')
def fuse():
    fd = os.open('/dev/fuse', os.O_RDWR); call(165, b'x', b'/tmp', b'fuse', 0, b'fd=%d,rootmode=40000,user_id=0,group_id=0' % fd)
def handles(): 
    room = ctypes.create_string_buffer(struct.pack('Ii', 128, 0), 136); mount = ctypes.c_int()
    call(303, -100, b'/etc', room, ctypes.byref(mount), 0); call(304, os.open('/', 0), room, 0)
def sysfs_again():
    call(165, b'x', b'/mnt', b'sysfs', 0, 0); open('/mnt/kernel/uevent_helper', 'w').write('')
def proc_again(): call(165, b'x', b'/mnt', b'proc', 0, 0); open('/mnt/sys/kernel/core_pattern', 'r+')
def switches_anew(): call(165, b'x', b'/proc/sys', 0, 32 | 4096, 0); open('/proc/sys/kernel/core_pattern', 'r+')
def uncovered(): call(166, b'/run', 2)
def link_outwards():
    # A pair of interfaces, one end of which were to be in the namespace of process 1.
    name = lambda kind, data: struct.pack('HH', 4 + len(data), kind) + data + b'\0' * (-len(data) % 4)
    body = struct.pack('BxHiII', 0, 0, 0, 0, 0) + name(3, b'o0\0') + name(18, name(1, b'veth') + name(2, name(1, struct.pack('BxHiII', 0, 0, 0, 0, 0) + name(3, b'o1\0') + name(19, struct.pack('I', 1)))))
    s = socket.socket(16, 3, 0); s.send(struct.pack('IHHII', 16 + len(body), 16, 0x605, 1, 0) + body)
    code = struct.unpack('i', s.recv(999)[16:20])[0]
    if code: raise OSError(-code, 'link')
def signals_outside():
    for pid in [os.getppid(), 2**22 - 2]:
        if pid > 1: os.kill(pid, 0)
    raise OSError(errno.ESRCH, 'nobody outside has a number here')
ways = {
 'descriptors_beyond_three': descriptors_beyond_three, 'key': family(15, protocol=2), 'alg': family(38, 5), 'vsock': family(40, 1), 'packet': family(17), 'bluetooth': family(31), 'can': family(29), 'xdp': family(44), 'tipc': family(30, 5), 'kcm': family(41), 'qipcrtr': family(42, 2), 'smc': family(43, 1), 'nfc': family(39), 'rds': family(21, 5), 'iucv': family(32, 1), 'x25': family(9, 5), 'unknown': family(99),
 'bpf': lambda: call(321, 5, ctypes.create_string_buffer(128), 128), 'perf': lambda: call(298, ctypes.create_string_buffer(struct.pack('II', 1, 128), 128), -1, 0, -1, 0),
 'kexec': lambda: call(246, 0, 0, 0, 0), 'module': lambda: call(313, 0, b'', 0), 'chroot': lambda: os.chroot('/'), 'pivot': lambda: call(155, b'/', b'/'), 'hostname': lambda: call(170, b'x', 1), 'reboot': lambda: call(169, 0xfee1dead, 672274793, 0, 0),
 'keys': lambda: call(248, b'user', b'x', b'y', 1, -3), 'request_key': lambda: call(249, b'user', b'x', b'', 0), 'keyctl': lambda: call(250, 0, -3, 0), 'uring': lambda: call(425, 8, ctypes.create_string_buffer(120)), 'uring_enter': lambda: call(426, 0, 1, 0, 0, 0, 0), 'x32': lambda: call(0x40000000 + 41, 2, 1, 0),
 'mem': opened('/dev/mem'), 'kcore': opened('/proc/kcore', os.O_RDONLY) if os.getuid() else lambda: (_ for _ in ()).throw(OSError(errno.EPERM, 'root is root over files')), 'core_pattern': opened('/proc/sys/kernel/core_pattern'), 'modprobe': opened('/proc/sys/kernel/modprobe'), 'sysrq': opened('/proc/sysrq-trigger', os.O_WRONLY), 'binfmt': opened('/proc/sys/fs/binfmt_misc/register', os.O_WRONLY), 'uevent': opened('/sys/kernel/uevent_helper', os.O_WRONLY), 'cgroup': opened('/sys/fs/cgroup/cgroup.procs', os.O_WRONLY), 'release_agent': opened('/sys/fs/cgroup/release_agent', os.O_WRONLY),
 'host_network': host_network, 'parent_by_descriptor': parent_by_descriptor, 'memory_of_first': memory_of_first, 'written_into_first': written_into_first, 'killed_first': killed_first, 'stopped_first': stopped_first, 'environment': environment, 'listener_of_connects': listener_of_connects, 'second_listener': second_listener, 'rights_by_a_pair': rights_by_a_pair, 'cores': cores, 'user_faults': user_faults, 'fuse': fuse, 'handles': handles, 'uncovered': uncovered, 'signals_outside': signals_outside, 'trace_first': lambda: call(101, 16, 1, 0, 0),
 'nested_link': nested(link_outwards), 'nested_switches': nested(switches_anew), 'nested_proc': nested(proc_again), 'nested_sysfs': nested(sysfs_again), 'nested_uncovered': nested(uncovered), 'nested_setns': nested(lambda: call(308, os.open('/proc/1/ns/net', 0), 0)), 'nested_first': nested(lambda: open('/proc/1/mem', 'r+b')),
}
for name, way in ways.items():
    try: way(); print('OPEN', name)
    except Exception as e: print('shut', name, type(e).__name__, e)
"#;

fn more_ways(test: &str, wrap: &[&str]) {
    let Some(scene) = Scene::start(test, "") else { return };
    if !cfg!(target_arch = "x86_64") || !has("python3") || !has("setpriv") {
        return;
    }
    let script = scene.lab.write("more.py", MORE_WAYS);
    let mut command = scene.lab.gateway.command("env");
    command.args(wrap).arg(&scene.program).arg("exec").arg("--config").arg(&scene.policy);
    let output = command.args(["-q", "--", "/usr/bin/python3"]).arg(script).output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!text.contains("OPEN"), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("shut ")).count() > 60, "{text}");
}

#[test]
fn e22_sixty_more_ways_are_shut_for_an_administrator() {
    more_ways("e22", &[]);
}

#[test]
fn e23_and_for_an_ordinary_user() {
    more_ways("e23", &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
}

/// Runs `schengate exec` on a terminal of its own, whose session it leads: a key that was struck before the
/// command was there (`early`), or a terminal that goes (`gone`).
const TERMINAL: &str = r#"
import os, pty, signal, sys, time
program, arguments = sys.argv[2], sys.argv[2:]
def until(what, done):
    for _ in range(3000):
        got = done()
        if got is not None: return got
        time.sleep(.01)
    sys.exit('never: ' + what)
def ended(pid):
    gone, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if gone else None
pid, terminal = pty.fork()
if pid == 0:
    if sys.argv[1] == 'early':
        # As where the key is struck while the gateway starts: it waits, as the terminal sent it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.write(1, b'strike')
        while signal.SIGINT not in signal.sigpending(): time.sleep(.01)
    os.execv(program, arguments)
heard = b''
def hear():
    global heard
    try: heard += os.read(terminal, 999)
    except OSError: return b''
    return heard if wanted in heard else None
if sys.argv[1] == 'early':
    wanted = b'strike'; until('strike', hear); os.write(terminal, b'\x03')
else:
    wanted = b'ready\r\n'; until('ready', hear); os.close(terminal)
status = until('the end', lambda: ended(pid))
print('status', status)
"#;

fn on_a_terminal(scene: &Scene, what: &str, command: &str) -> String {
    let script = scene.lab.write("terminal.py", TERMINAL);
    let mut exec = scene.lab.gateway.command("env");
    exec.args(["--default-signal", "python3"]).arg(script).arg(what).arg(&scene.program);
    exec.arg("exec").arg("--config").arg(&scene.policy).args([
        "-q",
        "--",
        "/usr/bin/python3",
        "-c",
    ]);
    let output = exec.arg(command).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    stdout(&output)
}

#[test]
fn e18_a_key_struck_before_the_command_is_there_reaches_it() {
    let Some(scene) = Scene::start("e18", "") else { return };
    let early = "import signal, sys; sys.exit(40 if signal.SIGINT in signal.sigpending() else 1)";
    assert_eq!(on_a_terminal(&scene, "early", early), "status 40\n");
}

#[test]
fn e24_the_end_of_the_terminal_reaches_it() {
    let Some(scene) = Scene::start("e24", "") else { return };
    let gone = "import os, signal
signal.signal(signal.SIGHUP, lambda *_: os._exit(41))
try: os.write(1, b'ready\\n')
except OSError: pass
while True: signal.pause()";
    assert_eq!(on_a_terminal(&scene, "gone", gone), "status 41\n");
}

#[test]
fn e19_switches_below_sys_memory_and_queues_of_the_host_and_other_numbers_of_calls_are_shut() {
    let Some(scene) = Scene::start("e19", "") else { return };
    let gateway = &scene.lab.gateway;
    gateway.shell("mount -t tmpfs switches /sys/kernel; : >/sys/kernel/switch").unwrap();
    gateway
        .shell("mount -t tmpfs memory /dev/shm; echo of the host >/dev/shm/of-the-host")
        .unwrap();
    let script = "import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for path in ['/sys/kernel/switch', '/sys/kernel/new']:
    try: os.open(path, os.O_WRONLY | os.O_CREAT); print('OPEN', path)
    except OSError as e: print(errno.errorcode[e.errno])
print(os.listdir('/dev/shm'), os.path.exists('/dev/mqueue') and os.listdir('/dev/mqueue'))
open('/dev/shm/own', 'w').close()
for call in [0x40000000 + 41, 0x40000000 + 39, 0x40000000 + 425]:
    libc.syscall(call, 2, 1, 0); print(errno.errorcode[ctypes.get_errno()])";
    let (output, _) = scene.run(&[], &["python3", "-c", script]);
    let queues = if std::path::Path::new("/dev/mqueue").exists() { "[]" } else { "False" };
    let mut expected = format!("EROFS\nEROFS\n[] {queues}\n");
    if cfg!(target_arch = "x86_64") {
        expected.push_str("EPERM\nEPERM\nEPERM\n");
        assert_eq!(stdout(&output), expected, "{}", said(&output));
    } else {
        assert!(stdout(&output).starts_with(&expected), "{}", said(&output));
    }
    let seen = gateway.shell("ls /dev/shm").unwrap();
    assert_eq!(seen.trim(), "of-the-host");
}

#[test]
fn e20_what_cannot_be_written_at_the_end_is_said_and_the_status_is_the_commands() {
    let Some(scene) = Scene::start("e20", "") else { return };
    let command = ["sh", "-c", "exit 7"];
    for options in [&["--report", "/dev/full"][..], &["--propose=/dev/full"]] {
        let output = scene.exec(options, &command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{text}");
        assert!(text.contains("/dev/full: No space left on device"), "{text}");
        // And what was to be written there is here.
        let kept = if options.len() == 2 { "status 7" } else { "schema = 1" };
        assert!(text.contains(kept), "{text}");
    }
    let asks = ["sh", "-c", "getent hosts permitted.example; exit 7"];
    let output = scene.exec(&["-q", "--record", "/dev/full"], &asks).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains("/dev/full is not whole"), "{}", said(&output));
    let output = scene.exec(&["--keep", "/"], &command).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(said(&output).contains("--keep /: that is all"), "{}", said(&output));
    // What a terminal takes for orders is nothing but text in what is said.
    let hostile = scene.lab.write("a\u{1b}[31mb.toml", "x");
    for option in ["--config", "--report"] {
        let mut exec = scene.lab.gateway.command(&scene.program);
        let path = if option == "--config" { hostile.clone() } else { hostile.join("c") };
        let output = exec.arg("exec").arg(option).arg(path).args(["--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{}", said(&output));
        assert!(!output.stderr.contains(&0x1b), "{}", said(&output));
    }
}

#[test]
fn e21_root_that_may_not_be_root_in_a_namespace_is_told_how_to_go_on() {
    let Some(scene) = Scene::start("e21", "") else { return };
    let inner = [scene.program.to_str().unwrap(), "exec", "-q", "--", "true"];
    let output = scene.exec(&["-q"], &inner).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    for part in ["CAP_SETFCAP", "another `schengate exec`"] {
        assert!(said(&output).contains(part), "no {part:?}: {}", said(&output));
    }
}
