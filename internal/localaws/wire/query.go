package wire

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// QueryOperation is one operation of an AWS query service: it takes the form
// of the request and returns the value that is encoded inside <NAMEResult>. A
// nil value answers without a result element.
type QueryOperation func(ctx context.Context, form url.Values) (any, error)

// ServeQuery answers a request of the AWS query protocol: the operation's name
// is the form's Action. The answer's root carries the XML namespace. An
// operation that is not in the table answers InvalidAction.
func ServeQuery(w http.ResponseWriter, r *http.Request, namespace string, operations map[string]QueryOperation) {
	if err := r.ParseForm(); err != nil {
		WriteQueryError(w, r, namespace, Errorf(400, "MalformedQueryString", "%v", err))
		return
	}
	name := r.Form.Get("Action")
	op, ok := operations[name]
	if !ok {
		WriteQueryError(w, r, namespace, Errorf(400, "InvalidAction", "localaws does not model the action %q", name))
		return
	}
	out, err := op(r.Context(), r.Form)
	if err != nil {
		WriteQueryError(w, r, namespace, err)
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<%sResponse xmlns=%q>", name, namespace)
	if out != nil {
		enc := xml.NewEncoder(&b)
		if err := enc.EncodeElement(out, xml.StartElement{Name: xml.Name{Local: name + "Result"}}); err != nil {
			WriteQueryError(w, r, namespace, err)
			return
		}
	}
	fmt.Fprintf(&b, "<ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata></%sResponse>", RequestIDFrom(r.Context()), name)
	WriteXML(w, r, http.StatusOK, b.Bytes())
}

// WriteQueryError answers with err in the AWS query protocol.
func WriteQueryError(w http.ResponseWriter, r *http.Request, namespace string, err error) {
	e := AsError(err)
	kind := "Sender"
	if !e.SenderFault() {
		kind = "Receiver"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<ErrorResponse xmlns=%q><Error><Type>%s</Type><Code>", namespace, kind)
	_ = xml.EscapeText(&b, []byte(e.LegacyCode())) // a bytes.Buffer never fails
	b.WriteString("</Code><Message>")
	_ = xml.EscapeText(&b, []byte(e.Message))
	fmt.Fprintf(&b, "</Message></Error><RequestId>%s</RequestId></ErrorResponse>", RequestIDFrom(r.Context()))
	WriteXML(w, r, e.HTTPStatus(), b.Bytes())
}

// WriteXML answers with an XML document, given without its declaration.
func WriteXML(w http.ResponseWriter, r *http.Request, status int, doc []byte) {
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("X-Amzn-Requestid", RequestIDFrom(r.Context()))
	w.Header().Set("Content-Length", strconv.Itoa(len(xml.Header)+len(doc)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(xml.Header)) // an error means that the client is gone
	_, _ = w.Write(doc)
}

// QueryList returns the members of a list parameter in the query protocol's
// order: prefix.1, prefix.2, … and so on ("Attributes.entry" for a map's
// entries, "TagKeys.member" for a list), each as the form below it with the
// prefix cut off; a plain value stands under the empty name.
func QueryList(form url.Values, prefix string) []url.Values {
	var list []url.Values
	for i := 1; ; i++ {
		at := prefix + "." + strconv.Itoa(i)
		member := url.Values{}
		for name, values := range form {
			if name == at {
				member[""] = values
			} else if rest, ok := strings.CutPrefix(name, at+"."); ok {
				member[rest] = values
			}
		}
		if len(member) == 0 {
			return list
		}
		list = append(list, member)
	}
}
