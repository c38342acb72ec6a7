package wire

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
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
	body, err := io.ReadAll(io.LimitReader(r.Body, maxJSONBody))
	if err != nil {
		WriteJSONError(w, r, Errorf(400, "SerializationException", "reading the request: %v", err))
		return
	}
	out, err := op(r.Context(), body)
	if err != nil {
		WriteJSONError(w, r, err)
		return
	}
	header(w, r)
	if out == nil {
		w.WriteHeader(http.StatusOK)
		return
	}
	_ = json.NewEncoder(w).Encode(out) // the client is gone: nobody to tell
}

// WriteJSONError answers with err in the AWS JSON protocol.
func WriteJSONError(w http.ResponseWriter, r *http.Request, err error) {
	e := AsError(err)
	header(w, r)
	w.Header().Set("X-Amzn-Errortype", e.Code)
	w.WriteHeader(e.HTTPStatus())
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.Code, "message": e.Message})
}

func header(w http.ResponseWriter, r *http.Request) {
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/x-amz-json-1.1"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", RequestIDFrom(r.Context()))
}
