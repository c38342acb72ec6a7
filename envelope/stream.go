package envelope

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	dataKeySize = 32
	tagSize     = 16
	// The most chunks of a message: 256 TiB in chunks of 64 KiB, far below what one key
	// may encrypt with AES-GCM where no nonce repeats.
	maxChunks = 1 << 32

	labelBody       = "CMKENV 1 body"
	labelCommitment = "CMKENV 1 commitment"
)

// derive makes the AEAD of one message, so that a data key serves many, and the value that
// commits to the data key: a ciphertext of AES-GCM alone can be made to open under two keys.
func derive(secret *[dataKeySize]byte, messageID, bound []byte) (aead cipher.AEAD, commitment []byte, err error) {
	hash := sha256.New()
	hash.Write(append([]byte(magic), version))
	hash.Write(bound)
	info := string(hash.Sum(nil))
	prk, err := hkdf.Extract(sha256.New, secret[:], messageID)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the message's keys: %w", err)
	}
	defer clear(prk)
	key, err := hkdf.Expand(sha256.New, prk, labelBody+info, dataKeySize)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the message's key: %w", err)
	}
	defer clear(key)
	if commitment, err = hkdf.Expand(sha256.New, prk, labelCommitment+info, commitmentSize); err != nil {
		return nil, nil, fmt.Errorf("derive the message's commitment: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the message's cipher: %w", err)
	}
	if aead, err = cipher.NewGCM(block); err != nil {
		return nil, nil, fmt.Errorf("make the message's cipher: %w", err)
	}
	return aead, commitment, nil
}

// message seals or opens the chunks of one message, in their order.
type message struct {
	aead      cipher.AEAD
	chunkSize int
	next      uint64
	nonce     [12]byte
	// charge is told how much data of a stream went through the data key.
	charge func(int64)
	// buffer has a stream's data, and opened what of it a reader may hand out. They are here
	// since fmt, with a verb like %s, follows one pointer in what it prints: to a writer or
	// reader, but not on to its message.
	buffer, opened []byte
}

// advance sets the nonce of the next chunk: 11 bytes count the chunks, and the twelfth
// tells the last one.
func (m *message) advance(last bool) error {
	if m.next >= maxChunks {
		return fmt.Errorf("a message has at most %d chunks of %d bytes", uint64(maxChunks), m.chunkSize)
	}
	binary.BigEndian.PutUint64(m.nonce[3:], m.next)
	m.nonce[11] = 0
	if last {
		m.nonce[11] = 1
	}
	m.next++
	return nil
}

// seal appends the next chunk, sealed, to out.
func (m *message) seal(out, plaintext []byte, last bool) ([]byte, error) {
	if err := m.advance(last); err != nil {
		return nil, fmt.Errorf("%w: split the data", err)
	}
	return m.aead.Seal(out, m.nonce[:], plaintext, nil), nil
}

// open appends the plaintext of the next chunk to out.
func (m *message) open(out, sealed []byte, last bool) ([]byte, error) {
	// Only a message without data ends with a chunk without data.
	if len(sealed) < tagSize || len(sealed) == tagSize && m.next > 0 {
		return nil, fmt.Errorf("%w: it is cut off within chunk %d", ErrTampered, m.next)
	}
	if err := m.advance(last); err != nil { // no writer makes one
		return nil, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	out, err := m.aead.Open(out, m.nonce[:], sealed, nil)
	if err != nil { // crypto/cipher says no more than that
		return nil, fmt.Errorf("%w: chunk %d is not what was sealed, or what follows it is not", ErrTampered, m.next-1)
	}
	return out, nil
}

// NewWriter begins a message on dst, asks KMS for its data key where the cache has none,
// and writes the header. What is written is sealed in chunks of 64 KiB; Close seals the
// last one and leaves dst open. A message that was not closed does not open. The result
// also is an io.ReaderFrom, and one goroutine at a time may use it. ctx is for the call
// of KMS alone. The errors are Seal's and dst's.
func (s *Sealer) NewWriter(ctx context.Context, dst io.Writer, encryptionContext map[string]string) (io.WriteCloser, error) {
	m, header, err := s.begin(ctx, encryptionContext, 0)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if _, err := dst.Write(header); err != nil {
		return nil, fmt.Errorf("seal: write the header: %w", err)
	}
	m.buffer = make([]byte, 0, m.chunkSize+tagSize)
	return &writer{dst: dst, m: m}, nil
}

// writer seals a stream. Its buffer is what is not sealed yet, at most a chunk: whether it
// is the last one shows when more comes.
type writer struct {
	dst io.Writer
	m   *message
	err error
}

var errWriterClosed = errors.New("seal: the message is closed")

func (w *writer) Write(p []byte) (int, error) {
	taken := 0
	for rest := p; len(rest) > 0 && w.err == nil; rest = p[taken:] {
		switch {
		case len(w.m.buffer) == w.m.chunkSize:
			w.flush(w.m.buffer, false)
		case len(w.m.buffer) == 0 && len(rest) > w.m.chunkSize: // needs no copy
			if w.flush(rest[:w.m.chunkSize], false); w.err == nil {
				taken += w.m.chunkSize
			}
		default:
			n := copy(w.m.buffer[len(w.m.buffer):w.m.chunkSize], rest)
			w.m.buffer = w.m.buffer[:len(w.m.buffer)+n]
			taken += n
		}
	}
	return taken, w.err
}

// ReadFrom is for io.Copy: it reads into the buffer.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	var taken int64
	for w.err == nil {
		had := len(w.m.buffer)
		n, err := fill(r, w.m.buffer[had:w.m.chunkSize+1])
		w.m.buffer = w.m.buffer[:had+n]
		taken += int64(n)
		if len(w.m.buffer) > w.m.chunkSize {
			ahead := w.m.buffer[w.m.chunkSize]
			if w.flush(w.m.buffer[:w.m.chunkSize], false); w.err == nil {
				w.m.buffer = append(w.m.buffer, ahead)
			}
		}
		if err == io.EOF { //nolint:errorlint // a wrapped one is something that broke, and no end of the data
			return taken, w.err
		}
		if err != nil {
			return taken, err
		}
	}
	return taken, w.err
}

// Close seals the last chunk. Once it has succeeded, it does nothing.
func (w *writer) Close() error {
	if w.err == nil {
		w.flush(w.m.buffer, true)
		if w.err == nil {
			w.err, w.m = errWriterClosed, nil
		}
	}
	if errors.Is(w.err, errWriterClosed) {
		return nil
	}
	return w.err
}

// flush seals the chunk into the buffer, where it may already be, and writes it.
func (w *writer) flush(chunk []byte, last bool) {
	sealed, err := w.m.seal(w.m.buffer[:0], chunk, last)
	if err != nil {
		w.err = fmt.Errorf("seal: %w", err)
		return
	}
	w.m.charge(int64(len(chunk)))
	if _, err := w.dst.Write(sealed); err != nil {
		w.err = fmt.Errorf("seal: write chunk %d: %w", w.m.next-1, err)
	}
	w.m.buffer = w.m.buffer[:0]
}

// Format prints no data.
func (w *writer) Format(f fmt.State, _ rune) { fmt.Fprint(f, "envelope.Writer") }

// NewReader reads the header of the message that src is, and asks KMS for its data key
// where the cache has none. Read returns only what is authenticated, chunk by chunk. That
// the end of a message was cut off shows only there: what was read counts when io.EOF has
// come. src is read to its end, and what follows the message makes it ErrTampered. The
// result also is an io.WriterTo, and one goroutine at a time may use it. ctx is for the
// call of KMS alone. The errors are Open's and src's.
func (s *Sealer) NewReader(ctx context.Context, src io.Reader, encryptionContext map[string]string) (io.Reader, error) {
	h, err := ReadHeader(src)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	m, err := s.resume(ctx, h, encryptionContext, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	m.buffer = make([]byte, m.chunkSize+tagSize+1)
	return &reader{src: src, m: m}, nil
}

// reader opens a stream. Its buffer takes a sealed chunk and one byte of the next, which
// tells whether there is one (ahead); opened is what of the chunk was not read yet.
type reader struct {
	src   io.Reader
	m     *message
	ahead bool
	err   error
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.m.opened) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.advance()
	}
	n := copy(p, r.m.opened)
	r.m.opened = r.m.opened[n:]
	return n, nil
}

// WriteTo is for io.Copy: it writes from the buffer.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		if len(r.m.opened) > 0 {
			n, err := w.Write(r.m.opened)
			written += int64(n)
			r.m.opened = r.m.opened[n:]
			if err != nil {
				return written, err
			}
		}
		if errors.Is(r.err, io.EOF) {
			return written, nil
		}
		if r.err != nil {
			return written, r.err
		}
		r.advance()
	}
}

// advance opens the next chunk. A chunk is decrypted in the buffer, never where a caller
// could see what is not authenticated yet.
func (r *reader) advance() {
	had, end := 0, len(r.m.buffer)-1
	if r.ahead {
		r.m.buffer[0], had = r.m.buffer[end], 1
	}
	n, err := fill(r.src, r.m.buffer[had:])
	last := errors.Is(err, io.EOF) // also a wrapped one: no error of ours may look like the end
	if err != nil && !last {
		r.err = fmt.Errorf("open: read chunk %d: %w", r.m.next, err)
		return
	}
	if r.ahead = !last; last {
		end = had + n
	}
	opened, err := r.m.open(r.m.buffer[:0:r.m.chunkSize], r.m.buffer[:end], last)
	if err != nil {
		r.err = fmt.Errorf("open: %w", err)
		return
	}
	r.m.charge(int64(len(opened)))
	if r.m.opened = opened; last {
		r.err = io.EOF
	}
}

// Format prints no data.
func (r *reader) Format(f fmt.State, _ rune) { fmt.Fprint(f, "envelope.Reader") }

// fill reads until b is full. Its error is io.EOF where src ended before, and src's own
// otherwise: unlike with io.ReadFull, a connection that broke (io.ErrUnexpectedEOF) does
// not look like the end.
func fill(src io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var read int
		read, err = src.Read(b[n:])
		n += read
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}
