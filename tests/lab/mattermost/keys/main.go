package main

import (
	"encoding/json"
	"os"
	"reflect"

	"github.com/mattermost/mattermost/server/public/model"
)

func kind(t reflect.Type) string {
	if t.Kind() == reflect.Ptr {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool:
		return t.Kind().String()
	case reflect.Int, reflect.Int64:
		return "int"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "list"
		}
	case reflect.Map:
		return "map"
	}
	return ""
}

func walk(t reflect.Type, prefix string, out map[string]string) {
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		ft := f.Type
		if ft.Kind() == reflect.Ptr {
			ft = ft.Elem()
		}
		name := prefix + f.Name
		if ft.Kind() == reflect.Struct {
			walk(ft, name+".", out)
		} else if k := kind(ft); k != "" && prefix != "" {
			out[name] = k
		} else { println("skipped", name, ft.String()) }
	}
}

func main() {
	out := map[string]string{}
	walk(reflect.TypeOf(model.Config{}), "", out)
	e := json.NewEncoder(os.Stdout)
	e.Encode(out)
}
