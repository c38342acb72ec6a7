package usage

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// File is a log file of a trail.
type File struct {
	// Name is its path or key, Size how many bytes it has as it is stored.
	Name string
	Size int64
	Open func(context.Context) (io.ReadCloser, error)
}

// delivered is the time in the name of a log file, when CloudTrail has delivered it
// (CloudTrail User Guide, "CloudTrail log file name format").
var delivered = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`_(\d{8}T\d{4})Z_[^/]*$`) })

// late is how much later than an event its file may be delivered. CloudTrail promises no
// time, and takes minutes.
const late = day

// May reports whether a log file may have events of a time, by its name; a name that says
// nothing may.
func (f File) May(from, to time.Time) bool {
	m := delivered().FindStringSubmatch(f.Name)
	if m == nil {
		return true
	}
	at, err := time.Parse("20060102T1504", m[1])
	return err != nil || !at.Add(time.Minute).Before(from) && !at.After(to.Add(late))
}

// IsLog reports whether a name is one of a log file, and not of a digest or of anything else.
func IsLog(name string) bool {
	return (strings.HasSuffix(name, ".json.gz") || strings.HasSuffix(name, ".json")) && !strings.Contains(name, "CloudTrail-Digest")
}

// Folder returns the log files in a file system, in all its folders.
func Folder(fsys fs.FS) (files []File, err error) {
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !IsLog(name) {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files = append(files, File{Name: path.Clean(name), Size: info.Size(), Open: func(context.Context) (io.ReadCloser, error) { return fsys.Open(name) }})
		return nil
	})
	return files, err
}

// ReadFiles adds the uses in log files to a collector, several files at once. A file that
// cannot be read is noted in the collector, and is no error; so is that none is of the time. progress, where not nil, is
// called after each file with how many bytes of all files are read; never concurrently.
func (c *Collector) ReadFiles(ctx context.Context, files []File, progress func(bytes int64)) error {
	c.begin()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	var mu sync.Mutex
	var done int64
	asked := false
	for _, f := range files {
		if !f.May(c.before, c.to) {
			continue
		}
		asked = true
		g.Go(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			n, err := c.readFile(gctx, f)
			c.noteFile(f, n, err)
			mu.Lock()
			defer mu.Unlock()
			if done += f.Size; progress != nil {
				progress(done)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if !asked {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unread(fmt.Sprintf("all of the %d log files: they were delivered at other times, by their names", len(files)))
	}
	return context.Cause(ctx)
}

// readFile returns how many records the file has.
func (c *Collector) readFile(ctx context.Context, f File) (records int64, err error) {
	in, err := f.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	r := io.Reader(in)
	if strings.HasSuffix(f.Name, ".gz") {
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return 0, err
		}
		r = unpacked
	}
	err = eachRecord(r, func(record []byte) {
		records++
		c.Add(record)
	})
	return records, err
}

const (
	// chunk is how much is read at once, and maxRecord how large a record may be: CloudTrail
	// cuts records at 256 KB, or 1 MB in event data stores.
	chunk     = 256 << 10
	maxRecord = 4 << 20
)

// eachRecord calls yield with each record of a log file, {"Records":[…]}. The record is
// valid until yield returns; that it is well formed is not checked.
func eachRecord(r io.Reader, yield func(record []byte)) error {
	w := window{in: r}
	const head = `{"Records":[`
	for _, want := range []byte(head) {
		if got, err := w.next(); err != nil || got != want {
			return errors.Join(errors.New(`it does not begin with {"Records":[, as the log files of CloudTrail do`), err)
		}
	}
	for {
		switch b, err := w.next(); {
		case err != nil:
			return err
		case b == ',':
		case b == ']':
			return nil
		case b == '{':
			record, err := w.object()
			if err != nil {
				return err
			}
			yield(record)
		default:
			return fmt.Errorf("it has %q where a record should begin", b)
		}
	}
}

// window is what of a text is in memory.
type window struct {
	in  io.Reader
	buf []byte
	pos int
}

// more reads on, and keeps what is behind from.
func (w *window) more(from int) error {
	if from > 0 {
		w.buf = w.buf[:copy(w.buf, w.buf[from:])]
		w.pos -= from
	}
	if len(w.buf) > maxRecord {
		return fmt.Errorf("a record is larger than %d bytes", maxRecord)
	}
	w.buf = slices.Grow(w.buf, chunk)
	n, err := io.ReadAtLeast(w.in, w.buf[len(w.buf):cap(w.buf)], 1)
	w.buf = w.buf[:len(w.buf)+n]
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads a byte that is no white space.
func (w *window) next() (byte, error) {
	for {
		if w.pos == len(w.buf) {
			if err := w.more(w.pos); err != nil {
				return 0, err
			}
		}
		b := w.buf[w.pos]
		w.pos++
		if b != ' ' && b != '\n' && b != '\r' && b != '\t' {
			return b, nil
		}
	}
}

// object reads on to the end of the object whose first brace was read.
func (w *window) object() ([]byte, error) {
	start, depth := w.pos-1, 1
	for {
		rest := w.buf[w.pos:]
		i := bytes.IndexAny(rest, `"{}`)
		if i < 0 {
			w.pos = len(w.buf)
			if err := w.more(start); err != nil {
				return nil, err
			}
			start = 0
			continue
		}
		w.pos += i + 1
		switch rest[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return w.buf[start:w.pos], nil
			}
		default:
			for {
				n := bytes.IndexByte(w.buf[w.pos:], '"')
				if n < 0 {
					w.pos = len(w.buf)
					if err := w.more(start); err != nil {
						return nil, err
					}
					start = 0
					continue
				}
				w.pos += n + 1
				if !escaped(w.buf[start : w.pos-1]) {
					break
				}
			}
		}
	}
}

// escaped reports whether the byte behind a text is escaped: by an odd number of backslashes.
func escaped(text []byte) bool {
	n := 0
	for n < len(text) && text[len(text)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}
