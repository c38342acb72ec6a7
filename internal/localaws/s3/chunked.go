package s3

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// readBody reads the body of a request, at most limit bytes of it. A body in
// aws-chunked encoding (x-amz-content-sha256: STREAMING-…) is decoded; its
// trailer is returned. Chunk signatures are not verified, as no signature is.
func readBody(r *http.Request, limit int64) (data []byte, trailer http.Header, err error) {
	expected := r.ContentLength
	chunked := strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-")
	if chunked {
		if expected, err = strconv.ParseInt(r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64); err != nil {
			return nil, nil, wire.Errorf(http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header.")
		}
	}
	if expected < 0 {
		return nil, nil, wire.Errorf(http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header.")
	}
	if expected > limit {
		return nil, nil, wire.Errorf(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
	}
	if chunked {
		data, trailer, err = readChunks(bufio.NewReader(r.Body), expected)
	} else {
		data = make([]byte, expected)
		_, err = io.ReadFull(r.Body, data)
	}
	if err != nil {
		return nil, nil, wire.Errorf(400, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header")
	}
	return data, trailer, nil
}

// readChunks decodes aws-chunked data of the given size:
//
//	SIZE-IN-HEX[;chunk-signature=…]\r\n DATA\r\n … 0[;…]\r\n [NAME:VALUE\r\n …] \r\n
func readChunks(r *bufio.Reader, size int64) ([]byte, http.Header, error) {
	var data bytes.Buffer
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, nil, io.ErrUnexpectedEOF
		}
		digits, _, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ";")
		n, err := strconv.ParseInt(digits, 16, 64)
		if err != nil || n < 0 || int64(data.Len())+n > size {
			return nil, nil, io.ErrUnexpectedEOF
		}
		if n == 0 {
			break
		}
		if _, err := io.CopyN(&data, r, n); err != nil {
			return nil, nil, io.ErrUnexpectedEOF
		}
		if end, err := r.ReadString('\n'); err != nil || strings.TrimRight(end, "\r\n") != "" {
			return nil, nil, io.ErrUnexpectedEOF
		}
	}
	if int64(data.Len()) != size {
		return nil, nil, io.ErrUnexpectedEOF
	}
	trailer, err := textproto.NewReader(r).ReadMIMEHeader()
	if err != nil && err != io.EOF { //nolint:errorlint // textproto returns it bare
		return nil, nil, io.ErrUnexpectedEOF
	}
	return data.Bytes(), http.Header(trailer), nil
}
