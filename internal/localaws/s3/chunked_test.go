package s3

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func chunks(size int, data []byte, trailer string) string {
	var b strings.Builder
	for len(data) > 0 {
		n := min(size, len(data))
		fmt.Fprintf(&b, "%x;chunk-signature=0123\r\n%s\r\n", n, data[:n])
		data = data[n:]
	}
	return b.String() + "0\r\n" + trailer + "\r\n"
}

func TestReadChunks(t *testing.T) {
	data := []byte("hello\r\n0\r\nworld")
	for _, size := range []int{1, 4, 100} {
		got, trailer, err := readChunks(bufio.NewReader(strings.NewReader(chunks(size, data, "x-amz-checksum-crc32:AAAAAA==\r\n"))), int64(len(data)))
		if err != nil || !bytes.Equal(got, data) || trailer.Get("X-Amz-Checksum-Crc32") != "AAAAAA==" {
			t.Errorf("chunks of %d: %q, %v, %v", size, got, trailer, err)
		}
	}
	for name, body := range map[string]string{
		"nothing":       "",
		"cut short":     "5\r\nhel",
		"no last chunk": "5\r\nhello\r\n",
		"too long":      "6\r\nhello!\r\n0\r\n\r\n",
		"too short":     "4\r\nhell\r\n0\r\n\r\n",
		"not a size":    "x\r\nhello\r\n0\r\n\r\n",
		"negative size": "-5\r\nhello\r\n0\r\n\r\n",
		"no line end":   "5\r\nhelloworld\r\n0\r\n\r\n",
	} {
		if got, _, err := readChunks(bufio.NewReader(strings.NewReader(body)), 5); err == nil {
			t.Errorf("%s: read %q", name, got)
		}
	}
}

func FuzzReadChunks(f *testing.F) {
	f.Add([]byte("hello"), 2, "5\r\nhello\r\n0\r\n\r\n")
	f.Add([]byte(""), 1, "ffffffffffffffff\r\n")
	f.Add([]byte("a\r\n"), 3, "0;\r\nA:b\r\n\r\n")
	f.Fuzz(func(t *testing.T, data []byte, size int, raw string) {
		_, _, _ = readChunks(bufio.NewReader(strings.NewReader(raw)), 1<<20) // must not panic
		got, _, err := readChunks(bufio.NewReader(strings.NewReader(chunks(max(size, 1), data, ""))), int64(len(data)))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%q in chunks of %d: %q, %v", data, size, got, err)
		}
	})
}
