// npm's ssh2 as an SFTP server: node ssh2.js MODULES HOST_KEY USER PASSWORD.
// It prints the port that it listens on. One call of fs for each request, as its
// documentation leaves it to every user to write; no extensions.
'use strict';
const fs = require('fs');
const path = require('path');

const [modules, keyFile, user, password] = process.argv.slice(2);
const { Server, utils: { sftp: { OPEN_MODE, STATUS_CODE } } } =
  require(path.join(modules, 'ssh2'));

const CODES = {
  ENOENT: STATUS_CODE.NO_SUCH_FILE, ENOTDIR: STATUS_CODE.NO_SUCH_FILE,
  EACCES: STATUS_CODE.PERMISSION_DENIED, EPERM: STATUS_CODE.PERMISSION_DENIED,
};

function attrs(s) {
  return { mode: s.mode, uid: s.uid, gid: s.gid, size: s.size,
           atime: Math.floor(s.atimeMs / 1000), mtime: Math.floor(s.mtimeMs / 1000) };
}

function flagsOf(bits) {
  const c = fs.constants;
  const both = OPEN_MODE.READ | OPEN_MODE.WRITE;
  let flags = (bits & both) === both ? c.O_RDWR
    : bits & OPEN_MODE.WRITE ? c.O_WRONLY : c.O_RDONLY;
  if (bits & OPEN_MODE.APPEND) flags |= c.O_APPEND;
  if (bits & OPEN_MODE.CREAT) flags |= c.O_CREAT;
  if (bits & OPEN_MODE.TRUNC) flags |= c.O_TRUNC;
  if (bits & OPEN_MODE.EXCL) flags |= c.O_EXCL;
  return flags;
}

function setAttrs(target, a) {
  const open = typeof target === 'number';
  if (a.size !== undefined) (open ? fs.ftruncateSync : fs.truncateSync)(target, a.size);
  if (a.uid !== undefined) (open ? fs.fchownSync : fs.chownSync)(target, a.uid, a.gid);
  if (a.mode !== undefined) (open ? fs.fchmodSync : fs.chmodSync)(target, a.mode & 0o7777);
  if (a.mtime !== undefined) {
    (open ? fs.futimesSync : fs.utimesSync)(target, a.atime, a.mtime);
  }
}

function serve(sftp) {
  const handles = new Map();
  let next = 0;
  const made = (what) => {
    const id = Buffer.alloc(4);
    id.writeUInt32BE(next);
    handles.set(next++, what);
    return id;
  };
  const at = (id) => handles.get(id.readUInt32BE(0));
  const on = (name, answer) => sftp.on(name, (req, ...rest) => {
    try {
      answer(req, ...rest);
    } catch (e) {
      sftp.status(req, CODES[e.code] ?? STATUS_CODE.FAILURE, e.message);
    }
  });
  const ok = (name, work) => on(name, (req, ...rest) => {
    work(...rest);
    sftp.status(req, STATUS_CODE.OK);
  });
  on('OPEN', (req, name, bits, a) => {
    const fd = fs.openSync(name, flagsOf(bits), a.mode ?? 0o666);
    sftp.handle(req, made({ fd }));
  });
  on('OPENDIR', (req, name) => {
    sftp.handle(req, made({ name, names: fs.readdirSync(name) }));
  });
  on('READ', (req, id, offset, length) => {
    const data = Buffer.alloc(length);
    const count = fs.readSync(at(id).fd, data, 0, length, offset);
    if (count) sftp.data(req, data.subarray(0, count));
    else sftp.status(req, STATUS_CODE.EOF);
  });
  ok('WRITE', (id, offset, data) => {
    for (let done = 0; done < data.length;) {
      done += fs.writeSync(at(id).fd, data, done, data.length - done, offset + done);
    }
  });
  on('READDIR', (req, id) => {
    const handle = at(id);
    const names = handle.names.splice(0, 64);
    if (!names.length) return sftp.status(req, STATUS_CODE.EOF);
    sftp.name(req, names.map((filename) => {
      const found = attrs(fs.lstatSync(path.join(handle.name, filename)));
      return { filename, longname: filename, attrs: found };
    }));
  });
  ok('CLOSE', (id) => {
    const { fd } = at(id);
    handles.delete(id.readUInt32BE(0));
    if (fd !== undefined) fs.closeSync(fd);
  });
  on('FSTAT', (req, id) => sftp.attrs(req, attrs(fs.fstatSync(at(id).fd))));
  on('STAT', (req, name) => sftp.attrs(req, attrs(fs.statSync(name))));
  on('LSTAT', (req, name) => sftp.attrs(req, attrs(fs.lstatSync(name))));
  ok('SETSTAT', setAttrs);
  ok('FSETSTAT', (id, a) => setAttrs(at(id).fd, a));
  ok('REMOVE', (name) => fs.unlinkSync(name));
  ok('RMDIR', (name) => fs.rmdirSync(name));
  ok('MKDIR', (name, a) => fs.mkdirSync(name, { mode: a.mode ?? 0o777 }));
  ok('RENAME', (from, to) => fs.renameSync(from, to));
  ok('SYMLINK', (link, target) => fs.symlinkSync(target, link));
  on('READLINK', (req, name) => sftp.name(req, [{ filename: fs.readlinkSync(name) }]));
  on('REALPATH', (req, name) => sftp.name(req, [{ filename: path.resolve('/', name) }]));
}

new Server({ hostKeys: [fs.readFileSync(keyFile)] }, (client) => {
  client.on('error', () => {});
  client.on('authentication', (ctx) => {
    const known = ctx.method === 'password'
      && ctx.username === user && ctx.password === password;
    if (known) ctx.accept();
    else ctx.reject(['password']);
  });
  client.on('session', (accept) => accept().on('sftp', (go) => serve(go())));
}).listen(0, '127.0.0.1', function () { console.log(this.address().port); });
