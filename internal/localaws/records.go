package localaws

import (
	"encoding/json"
	"io"
	"net/http"
)

// RecordsPath is where records are posted; see Server.Record. No bucket can have
// its name.
const RecordsPath = "/_localaws/records"

const maxRecords = 8 << 20 // bytes of a request

// serveRecords takes one CloudTrail record, or a log file of them.
func (s *Server) serveRecords(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "POST a CloudTrail record, or {\"Records\": […]}", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRecords))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var file struct{ Records []json.RawMessage }
	if json.Unmarshal(body, &file) != nil || file.Records == nil {
		file.Records = []json.RawMessage{body}
	}
	for _, record := range file.Records {
		if err := s.Record(record); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}
