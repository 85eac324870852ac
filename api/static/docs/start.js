// Shows the description that this service gives of itself. No validator: that one runs on another host.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#description", deepLinking: true, validatorUrl: null });
