package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// openInput opens a file, or standard input for "-". size is -1 where it is not known
// before the end.
func openInput(name string) (in io.ReadCloser, size int64, err error) {
	file := os.Stdin
	if name != "-" {
		if file, err = os.Open(name); err != nil {
			return nil, 0, err
		}
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, 0, errors.Join(err, file.Close())
	case name == "-":
		return io.NopCloser(file), -1, nil
	case info.IsDir():
		return nil, 0, errors.Join(fmt.Errorf("%s is a directory: name its files", name), file.Close())
	case !info.Mode().IsRegular():
		return file, -1, nil
	}
	return file, info.Size(), nil
}

// placing is how a file is put in its place: it is written beside it, and gets its name when
// it is whole and on the disk. So under the name there is always a whole file, whenever the
// process is killed. What a killed one leaves is called .cmkeeper-….
type placing struct {
	// like is the file that is replaced, whose mode and owner the new one gets; nil: only
	// the caller may read it.
	like fs.FileInfo
	// fresh: a file that has the name stays, and the error is fs.ErrExist.
	fresh bool
}

// replaceFile makes a file that only its owner may read. A file of that name is replaced
// once the new one is whole.
func replaceFile(name string, write func(io.Writer) error) error {
	return placing{}.write(name, write)
}

// write puts what write writes in the place of name.
func (p placing) write(name string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(name), ".cmkeeper-*")
	if err != nil {
		return err
	}
	placed := false
	defer func() {
		if !placed {
			_ = os.Remove(file.Name())
		}
	}()
	if err = write(file); err == nil {
		err = p.finish(file)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if !p.fresh {
		if err := os.Rename(file.Name(), name); err != nil {
			return err
		}
		placed = true
		return syncFolder(filepath.Dir(name))
	}
	// A link, unlike a rename, never takes the name from another file. Where the file system
	// has no links, there is a moment between the look and the rename.
	err = os.Link(file.Name(), name)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if _, taken := os.Lstat(name); taken == nil {
			return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
		}
		err = os.Rename(file.Name(), name)
		placed = err == nil
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

// finish gives the file its owner and mode, and waits until it is on the disk.
func (p placing) finish(file *os.File) error {
	if p.like != nil {
		if owner, ok := p.like.Sys().(*syscall.Stat_t); ok {
			if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return fmt.Errorf("keep the file's owner: %w", err)
			}
		}
		if err := file.Chmod(p.like.Mode().Perm()); err != nil {
			return fmt.Errorf("keep the file's mode: %w", err)
		}
	}
	return file.Sync()
}

// syncFolder waits until the names of a folder are on the disk. Some file systems do not
// have that for folders.
func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err == nil {
		if err = folder.Sync(); errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
			err = nil
		}
		err = errors.Join(err, folder.Close())
	}
	if err != nil {
		return fmt.Errorf("the file is whole and in its place, but may be gone after a crash of the machine: %w", err)
	}
	return nil
}

// metered is a reader that shows how far it has come where standard error is a terminal, and
// ends with its context.
type metered struct {
	ctx  context.Context
	from io.Reader
	// all is how much there is, -1 where that is not known.
	n, all int64
	out    *line
	next   time.Time
}

// meter returns a reader of from, and what ends its show.
func meter(ctx context.Context, stderr io.Writer, from io.Reader, all int64) (*metered, func()) {
	w := &metered{ctx: ctx, from: from, all: all, out: newLine(stderr), next: time.Now().Add(time.Second)}
	return w, func() {
		if w.out.terminal != nil && w.out.last != "" {
			_ = w.out.end()
		}
	}
}

func (w *metered) Read(b []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	n, err := w.from.Read(b)
	if w.ctx.Err() != nil { // what feeds a pipe may have ended by the same signal
		return 0, context.Cause(w.ctx)
	}
	w.n += int64(n)
	if now := time.Now(); w.out.terminal != nil && now.After(w.next) {
		w.next = now.Add(200 * time.Millisecond)
		text := bytesText(w.n)
		if w.all > 0 {
			text += fmt.Sprintf(" of %s, %d%%", bytesText(w.all), min(100, w.n*100/w.all))
		}
		_ = w.out.show(text)
	}
	return n, err
}
