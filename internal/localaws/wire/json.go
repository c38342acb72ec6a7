package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// maxJSONBody is larger than any request that a modelled JSON service accepts.
const maxJSONBody = 8 << 20

// JSONOperation is one operation of an AWS JSON service: it takes the request's
// body and returns the value that becomes the answer's body. A nil value
// answers with an empty body, as AWS does for operations without output.
type JSONOperation func(ctx context.Context, body []byte) (any, error)

// JSON makes an operation of a function over a typed request.
func JSON[In, Out any](f func(ctx context.Context, in In) (Out, error)) JSONOperation {
	return func(ctx context.Context, body []byte) (any, error) {
		var in In
		if len(body) > 0 {
			if err := json.Unmarshal(body, &in); err != nil {
				return nil, Errorf(400, "SerializationException", "%v", err)
			}
		}
		return f(ctx, in)
	}
}

// NoOutput makes an operation of a function that answers with an empty body.
func NoOutput[In any](f func(ctx context.Context, in In) error) JSONOperation {
	return JSON(func(ctx context.Context, in In) (any, error) { return nil, f(ctx, in) })
}

// ServeJSON answers a request of the AWS JSON protocol (1.0 and 1.1): the
// operation's name is what follows the dot of the X-Amz-Target header. An
// operation that is not in the table answers UnknownOperationException.
func ServeJSON(w http.ResponseWriter, r *http.Request, operations map[string]JSONOperation) {
	target := r.Header.Get("X-Amz-Target")
	name := target[strings.LastIndexByte(target, '.')+1:]
	op, ok := operations[name]
	if !ok {
		WriteJSONError(w, r, Errorf(400, "UnknownOperationException", "localaws does not model %s", target))
		return
	}
	var body bytes.Buffer
	if r.ContentLength > 0 {
		body.Grow(int(min(r.ContentLength, maxJSONBody)) + bytes.MinRead) // ReadFrom wants room for the end
	}
	if _, err := body.ReadFrom(io.LimitReader(r.Body, maxJSONBody)); err != nil {
		WriteJSONError(w, r, Errorf(400, "SerializationException", "reading the request: %v", err))
		return
	}
	out, err := op(r.Context(), body.Bytes())
	if err != nil {
		WriteJSONError(w, r, err)
		return
	}
	if out == nil {
		write(w, r, http.StatusOK, nil)
		return
	}
	doc, err := json.Marshal(out)
	if err != nil {
		WriteJSONError(w, r, fmt.Errorf("encode the answer of %s: %w", name, err))
		return
	}
	write(w, r, http.StatusOK, doc)
}

// WriteJSONError answers with err in the AWS JSON protocol.
func WriteJSONError(w http.ResponseWriter, r *http.Request, err error) {
	e := AsError(err)
	w.Header().Set("X-Amzn-Errortype", e.Code)
	if e.QueryCode != "" {
		kind := "Sender"
		if !e.SenderFault() {
			kind = "Receiver"
		}
		w.Header().Set("X-Amzn-Query-Error", e.QueryCode+";"+kind)
	}
	doc, _ := json.Marshal(map[string]string{"__type": e.Code, "message": e.Message}) // strings always encode
	write(w, r, e.HTTPStatus(), doc)
}

func write(w http.ResponseWriter, r *http.Request, status int, doc []byte) {
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/x-amz-json-1.1"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", RequestIDFrom(r.Context()))
	w.Header().Set("Content-Length", strconv.Itoa(len(doc)))
	w.WriteHeader(status)
	_, _ = w.Write(doc) // an error means that the client is gone
}
